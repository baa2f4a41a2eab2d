"""The manual pages, from the commands themselves: flctl.1, and one for each command.

    python scripts/man.py FOLDER

A wheel brings them (scripts/build_hook.py), so that `man flctl-train` shows what
`flctl train --help` prints.
"""

import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import typer.main

from flctl.cli.app import app
from flctl.version import version_of

ROOT = Path(__file__).resolve().parents[1]
ROFF = {"\\": r"\e", "-": r"\-", "'": r"\(aq", "`": r"\(ga", "^": r"\(ha", "~": r"\(ti"}
SHOWN = re.compile(r"(?<![\w-])(--?[\w-]+)|([^\s,/]+)")
STATUS = (
    ("0", "Done."),
    ("1", "The command failed."),
    ("2", "Wrong usage, or wrong settings."),
    ("130", "Interrupted with Ctrl-C."),
)


class Found(NamedTuple):
    words: tuple[str, ...]
    """`flctl` and what follows it."""
    command: Any
    context: Any

    @property
    def name(self) -> str:
        return "-".join(self.words)

    @property
    def summary(self) -> str:
        return str(self.command.get_short_help_str(limit=300)).rstrip(".")

    @property
    def inner(self) -> list["Found"]:
        """The commands of a group."""
        if not hasattr(self.command, "list_commands"):
            return []
        names = self.command.list_commands(self.context)
        found = ((name, self.command.get_command(self.context, name)) for name in names)
        return [_found((*self.words, name), command, self.context) for name, command in found]


def root() -> Found:
    return _found(("flctl",), typer.main.get_command(app), None)


def every(first: Found) -> Iterator[Found]:
    yield first
    for each in first.inner:
        yield from every(each)


def pages() -> dict[str, str]:
    """The text of each page by the name of its file."""
    return {f"{each.name}.1": "\n".join(lines(each)) + "\n" for each in every(root())}


def lines(of: Found) -> Iterator[str]:
    yield f'.TH {text(of.name.upper())} 1 "" "flctl {text(version_of().version)}" "flctl manual"'
    yield from (".ad l", ".nh")  # left-aligned, no hyphenation: names are for copying
    yield from (".SH NAME", rf"{text(of.name)} \- {text(of.summary)}")
    usage = of.command.get_usage(of.context).removeprefix("Usage:").split()
    rest = " ".join(usage[len(of.words) :])
    yield from (".SH SYNOPSIS", f".B {text(' '.join(of.words))}", f".RI {quoted(rest)}")
    yield ".SH DESCRIPTION"
    yield from paragraphs(of.command.help or "")
    if of.inner:
        yield ".SH COMMANDS"
        groups = of.command.groups or {"": [each.words[-1] for each in of.inner]}
        by_name = {each.words[-1]: each for each in of.inner}
        for heading, names in groups.items():
            yield from ((f".SS {text(heading)}",) if heading else ())
            for each in (by_name[name] for name in names):
                yield from tagged(rf"\fB{text(each.name)}\fR(1)", each.summary + ".")
    yield from options(of)
    if examples := (of.command.epilog if not of.inner else "") or "":
        shown = map(line, examples.splitlines())
        yield from (".SH EXAMPLES", ".in -5n", ".EX", *shown, ".EE", ".in")
    yield ".SH EXIT STATUS"
    for code, meaning in STATUS:
        yield from tagged(code, meaning)
    above = [of.words[:end] for end in range(1, len(of.words))]
    if above:
        yield ".SH SEE ALSO"
        yield ", ".join(rf"\fB{text('-'.join(words))}\fR(1)" for words in above)


def options(of: Found) -> Iterator[str]:
    if of.inner:
        found = (each.get_help_record(of.context) for each in of.command.get_params(of.context))
        groups = {"Options": [record for record in found if record is not None]}
    else:
        groups = of.command.options_by_group(of.context, strategies())
    yield ".SH OPTIONS"
    for name, records in groups.items():
        yield from ((f".SS {text(name)}",) if len(groups) > 1 else ())
        for shown, about in records:
            yield from tagged(marked(shown), about)


def strategies() -> list[str]:
    """Those of flctl: a build has none installed, and a developer may have more."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [*project["entry-points"]["flctl.strategies"]]


def marked(shown: str) -> str:
    """An option in bold, what it takes in italics."""

    def part(found: re.Match[str]) -> str:
        return rf"\fB{text(found[1])}\fR" if found[1] else rf"\fI{text(found[2])}\fR"

    return SHOWN.sub(part, shown)


def tagged(tag: str, about: str) -> Iterable[str]:
    return (".TP", tag, line(" ".join(about.split())))


def paragraphs(help_: str) -> Iterator[str]:
    for number, each in enumerate(re.split(r"\n\s*\n", help_.strip())):
        yield from ((".PP",) if number else ())
        yield line(" ".join(each.split()))


def line(content: str) -> str:
    """A line of text that is no request of roff."""
    made = text(content)
    return rf"\&{made}" if made.startswith((".", "'")) else made


def text(content: str) -> str:
    def sign(each: str) -> str:
        return ROFF.get(each) or (each if each.isascii() else rf"\[u{ord(each):04X}]")

    return "".join(map(sign, content))


def quoted(content: str) -> str:
    return '"' + text(content).replace('"', r"\(dq") + '"'


def _found(words: tuple[str, ...], command: Any, parent: Any) -> Found:
    settings = command.context_settings
    context = command.context_class(command, info_name=words[-1], parent=parent, **settings)
    return Found(words, command, context)


def write(folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, content in pages().items():
        (path := folder / name).write_text(content)
        written.append(path)
    return written


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python scripts/man.py FOLDER")
    print(f"{len(write(Path(sys.argv[1])))} manual pages in {sys.argv[1]}")
