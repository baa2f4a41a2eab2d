"""Plain text of the code (help, docstrings) as Markdown."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1]
TITLES = {
    path.read_text().partition("\n")[0].removeprefix("# "): path.relative_to(DOCS).as_posix()
    for path in sorted(DOCS.glob("*/*.md"))
}
"""The page of each title; help texts name pages by them, as who installs a wheel has no files."""
_PARTS = re.compile(
    r"(?P<code>`+[^`]*`+)"
    r"|(?P<page>\bdocs/(?P<name>[\w/-]+)\.md(?:#[\w-]+)?)"
    r"|documentation: (?P<title>[^)]+)"
    r"|'(?P<command>flctl [^']+)'"
    r"|(?P<option>(?<![\w-])--?[a-z][\w-]*\b)"
    r"|(?P<variable>\bFLCTL_[A-Z_]+\b)"
    r"|(?P<mark>[\\*_<>\[\]{}])"
)


def markdown(text: str) -> str:
    """What Markdown would take for marks is shown as it is; options and variables are code, and
    the path of a page is a link to it."""

    def part(found: re.Match[str]) -> str:
        if found["code"]:
            return found[0]
        if found["page"]:
            return f"[{found['name']}](/{found['name']}.md)"
        if found["title"]:
            return f"documentation: [{found['title']}](/{TITLES[found['title']]})"
        if found["command"]:
            return code(found["command"])
        if found["mark"]:
            return f"\\{found[0]}"
        return f"`{found[0]}`"

    return _PARTS.sub(part, text)


def paragraphs(text: str) -> str:
    """Paragraphs that were wrapped by hand, on one line each."""
    found = re.split(r"\n\s*\n", text.strip())
    return "\n\n".join(markdown(" ".join(each.split())) for each in found)


def code(text: str) -> str:
    return f"`{text}`"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(each) for each in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
