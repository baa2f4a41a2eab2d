"""What a page says, invisibly, about a block of commands or of what they print.

<!-- not run: needs hosts; see tests/hosts/test_rollout.py::test_a_dead_card_is_replaced -->
<!-- not run (git, pip): needs the network -->      only what begins with these
<!-- output of: flctl tasks check -->               of an earlier command than the one above
"""

import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from blocks import PAGES, ROOT, Block, blocks, is_shell

REASONS = {
    "needs hosts": "Pis, or machines that Ansible reaches",
    "needs Docker": "its engine",
    "needs the network": "a package index, a repository, data from elsewhere",
    "needs a camera": "",
    "needs a cluster": "of Ray",
    "runs the tests": "this would be one of them",
    "takes hours": "",
}
READ = [page for page in PAGES if page.name != "CONTRIBUTING.md"]
_NOT_RUN = re.compile(
    r"<!-- not run(?: \((?P<only>[^)]+)\))?: (?P<reason>[^;]+?)(?:; see (?P<test>\S+))? -->"
)
_OUTPUT_OF = re.compile(r"<!-- output of: (.+?) -->")
_SAVED = re.compile(r"[Ss]ave\b[^.:]*?\bas\s+`([\w./-]+)`[^`\n]*:?\s*$")
_SCHEDULED = re.compile(r"^(?:[\d*]\S* +){5}")


class NotRun(NamedTuple):
    only: tuple[str, ...]
    """What a command begins with; none: all of the block."""
    reason: str
    test: str | None
    """Where the same is run."""


class Step(NamedTuple):
    """A command of a page, whole, as it is pasted."""

    block: Block
    line: int
    text: str
    not_run: NotRun | None

    def __str__(self) -> str:
        return f"{self.block.page.relative_to(ROOT)}:{self.line}"


class Shown(NamedTuple):
    """What the page shows of the output of a command that begins with `of`, or of the last one."""

    block: Block
    of: str | None
    lines: list[str]


class Saved(NamedTuple):
    """A file that the reader is asked to save."""

    block: Block
    name: str


def parts(page: Path) -> Iterator[Step | Shown | Saved]:
    """All that a reader does with a page, in order."""
    above = False
    for block in blocks(page):
        touches = above and not block.before.strip()
        above = is_shell(block) or is_schedule(block)
        if above:
            yield from _steps(block)
        elif block.language == "python" and re.search(
            r"^\w+ = flctl\.train\(", block.text, re.MULTILINE
        ):
            program = f"python - <<'END'\nimport flctl\n{block.text}END"
            yield Step(block, block.line, program, not_run(block))
        elif named := _OUTPUT_OF.search(block.before.rstrip().rpartition("\n\n")[2]):
            yield Shown(block, named[1], block.text.splitlines())
        elif saved := _SAVED.search(block.before):
            yield Saved(block, saved[1])
        elif touches and block.language in ("", "text"):
            yield Shown(block, None, block.text.splitlines())


def steps(page: Path) -> list[Step]:
    return [part for part in parts(page) if isinstance(part, Step)]


def is_schedule(block: Block) -> bool:
    """A line of a crontab."""
    return not block.language and _SCHEDULED.match(block.text) is not None


def _steps(block: Block) -> Iterator[Step | Shown]:
    mark = not_run(block)
    prompted = re.search(r"^\$ ", block.text, re.MULTILINE) is not None
    printed: list[str] = []
    for line, text in statements(block.text):
        if prompted and not text.startswith("$ "):
            printed.append(text)
            continue
        if printed:
            yield Shown(block, None, printed)
            printed = []
        command = _SCHEDULED.sub("", text.removeprefix("$ "))
        applies = mark and (not mark.only or command.startswith(mark.only))
        yield Step(block, block.line + line, command, mark if applies else None)
    if printed:
        yield Shown(block, None, printed)


def not_run(block: Block) -> NotRun | None:
    found = _NOT_RUN.search(block.before.rstrip().rpartition("\n\n")[2])
    if found is None:
        return None
    only = tuple(each.strip() for each in (found["only"] or "").split(",") if each)
    return NotRun(only, found["reason"], found["test"])


def statements(text: str) -> Iterator[tuple[int, str]]:
    """Whole ones, as bash takes them, with the lines that they begin on; without comments."""
    open_, began = "", 0
    for number, line in enumerate(text.splitlines()):
        if not open_:
            if not line.strip() or line.startswith("#"):
                continue
            began = number
        open_ += line + "\n"
        if not line.endswith("\\") and _is_whole(open_):
            yield began, open_.rstrip("\n")
            open_ = ""
    assert not open_, f"bash waits for more: {open_}"


@cache
def _is_whole(text: str) -> bool:
    asked = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True, check=False)
    return asked.returncode == 0
