"""Whether what a command printed looks as its page shows it."""

import re

_NAME = re.compile(r"(pi|pump)-\d\d,?")
_UNIT = re.compile(r"ms|s|min|[KMG]i?B|kB|B")


def missing(shown: list[str], printed: str, figures: bool = False) -> str | None:
    """The first line of a page that was not printed, after those before it; None: all were.

    Words are compared; one with a figure stands for any other, unless `figures` are the same
    everywhere, and so does a unit. `…` is what the page leaves out: alone, lines; in a line, words
    or a part of one.
    """
    normal = str if figures else _normal
    left = ["".join(f"{normal(word)} " for word in line.split()) for line in printed.splitlines()]
    for line in shown:
        if line.strip() in ("", "…"):
            continue
        wanted = re.compile("".join(_pattern(word, normal(word)) for word in line.split()))
        at = next((at for at, found in enumerate(left) if wanted.fullmatch(found)), None)
        if at is None:
            return line
        del left[: at + 1]
    return None


def _pattern(word: str, normal: str) -> str:
    if "…" in word:
        return r"(\S+ )*" if word == "…" else r"\S+ "
    return re.escape(f"{normal} ")


def _normal(word: str) -> str:
    if _NAME.fullmatch(word):
        return word
    if word in ("-", "·") or re.search(r"\d", word):
        return "0"
    return "unit" if _UNIT.fullmatch(word) else word
