"""Results on stdout, as JSON or as tables; colour only on a terminal."""

import contextlib
import errno
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import msgspec

from flctl.errors import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import Console, RenderableType
    from rich.segment import Segment

    from flctl.terminal.tables import Table


RED, PLAIN = "\x1b[31m", "\x1b[0m"
LARGEST = msgspec.json.encode(sys.float_info.max)
ENDLESS = 100_000
"""Columns of a file or a pipe: nothing is wrapped there, left out or padded."""


def print_json(value: Any, indent: bool | None = None) -> None:
    """`value` on stdout: on one line, or indented, as people at a terminal like it. A figure that
    could not be computed, or of a model that has diverged, is null."""
    if indent is None:
        indent = sys.stdout.isatty()
    data = msgspec.json.encode(value)
    if LARGEST in data:
        data = msgspec.json.encode(_known(msgspec.json.decode(data)))
    text = (msgspec.json.format(data, indent=2) if indent else data).decode()
    sys.stdout.write("\n".join(map(_escaped, text.split("\n"))) + "\n")
    sys.stdout.flush()


def _known(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _known(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_known(each) for each in value]
    return None if isinstance(value, float) and abs(value) == sys.float_info.max else value


def _escaped(line: str) -> str:
    """A line of JSON that says the same without what steers a terminal: JSON escapes the first
    32 characters, not DEL, C1 and the marks that turn the direction of writing."""
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() else _units(c) for c in line)


def _units(char: str) -> str:
    """As JSON's escapes, which are units of UTF-16."""
    code = char.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{code[at : at + 4]}" for at in range(0, len(code), 4))


def print_line(text: str) -> None:
    sys.stdout.write(printable(text) + "\n")
    sys.stdout.flush()


def drop(stream: TextIO) -> None:
    """Discard the stream's buffer and all further output, also at exit."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def say(text: str, stream: TextIO) -> None:
    """One line that begins with the program's name; red on a terminal."""
    line = "flctl: " + printable(" ".join(text.split()))
    try:
        colour = stream.isatty() and not os.environ.get("NO_COLOR")
        stream.write(f"{RED}{line}{PLAIN}\n" if colour else f"{line}\n")
        stream.flush()
    except (OSError, ValueError):
        drop(stream)


def warn(text: str) -> None:
    """A line on stderr about something that does not end the command."""
    say(text, sys.stderr)


def give_up_stdout(error: OSError) -> bool:
    """Stop writing to stdout. Returns whether a warning was printed: none if the reader has gone
    away (`flctl … | head`)."""
    drop(sys.stdout)
    if isinstance(error, BrokenPipeError):
        return False
    why = "it is closed" if error.errno == errno.EBADF else error.strerror
    warn(f"cannot write standard output: {why}")
    return True


def hint(text: str) -> None:
    """A line for a person at the terminal, on stderr; nothing when that is a file."""
    if sys.stderr.isatty():
        sys.stderr.write(printable(text) + "\n")
        sys.stderr.flush()


def terminal(stderr: bool = False) -> "Console":
    """A console that neither wraps nor colours what goes to a file or a pipe.

    No text is markup: keys, names and paths hold brackets and colons.
    """
    from rich.console import Console

    class Harmless(Console):
        """Console for tables with text from agents, which must not control the terminal."""

        def render(self, *args: Any, **options: Any) -> "Iterator[Segment]":
            for segment in super().render(*args, **options):
                plain = segment.control or segment.text.isprintable()
                yield segment if plain else segment._replace(text=printable(segment.text))

    plain: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False}
    console = Harmless(stderr=stderr, **plain)
    if not console.is_terminal:
        console = Harmless(stderr=stderr, width=ENDLESS, no_color=True, **plain)
    return console


def table(*columns: str, yields: "Sequence[str]" = (), note_lines: int | None = 2) -> "Table":
    """An empty table in the house's style; see `flctl.terminal.tables`, which needs rich."""
    from flctl.terminal.tables import Table

    return Table(columns, yields, note_lines)


def show(made: "RenderableType") -> None:
    """A table, a picture, or a line of text."""
    print_line(made) if isinstance(made, str) else terminal().print(made)


def answer(value: Any, as_json: bool, shown: "RenderableType") -> None:
    """The result of a command: `value` as JSON, else `shown`."""
    print_json(value) if as_json else show(shown)


def program() -> str:
    """How a shell calls this program: a `flctl` that is not on the path with its folder."""
    if shutil.which("flctl"):
        return "flctl"
    called = Path(sys.argv[0]).absolute()
    if called.name != "flctl":
        return "flctl"
    return shlex.quote(str(shown(called)))


def task_option(task: str) -> str:
    """Option for a suggested command, so that it finds a task that is not installed."""
    return f" --task {shlex.quote(task)}" if ":" in task else ""


def shown(path: Path) -> Path:
    """From the current folder when it is below that."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
