"""From an exception to one line on stderr and an exit code; the only place that does it.

0    done
1    tried and failed
2    the command or its settings are wrong
130  ended with Ctrl-C
"""

import contextlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any, TextIO

import typer

from flctl.errors import FlctlError

INTERRUPTED = 130
RED, PLAIN = "\x1b[31m", "\x1b[0m"


def run(app: typer.Typer, args: Sequence[str]) -> int:
    """Run the command line `args` (without the program's name) and return its exit code."""
    try:
        code = app(args=list(args), prog_name="flctl", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return _reader_went_away()
    except FlctlError as error:
        say(str(error), sys.stderr)
        return error.exit_code
    except Exception as error:
        return _on_other(error, verbose=_is_verbose(args))


def say(text: str, stream: TextIO) -> None:
    """One line that begins with the program's name; red on a terminal."""
    line = "flctl: " + " ".join(text.split())
    with contextlib.suppress(OSError, ValueError):
        colour = stream.isatty() and not os.environ.get("NO_COLOR")
        stream.write(f"{RED}{line}{PLAIN}\n" if colour else f"{line}\n")
        stream.flush()


def _on_other(error: Exception, verbose: bool) -> int:
    if isinstance(getattr(error, "exit_code", None), int) and hasattr(error, "format_message"):
        return _on_usage(error)
    if isinstance(error, typer.Abort):
        return INTERRUPTED
    if verbose:
        traceback.print_exception(error)
    text = f"{type(error).__name__}: {error}".rstrip(": ")
    say(text if verbose else f"{text} (run again with --verbose for details)", sys.stderr)
    return 1


def _on_usage(error: Any) -> int:
    """What Typer itself found wrong, or the help of a group that was called without a command."""
    context = error.ctx
    if type(error).__name__ == "NoArgsIsHelpError":
        sys.stdout.write(context.get_help() + "\n")
        return 0
    text = error.format_message().rstrip(".")
    command = context.command_path if context is not None else "flctl"
    say(f"{text} (see: {command} --help)", sys.stderr)
    return int(error.exit_code)


def _reader_went_away() -> int:
    """`flctl … | head`: what is left in the buffer has nowhere to go."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    return 1


def _is_verbose(args: Sequence[str]) -> bool:
    return any(arg in ("-v", "--verbose") for arg in args)


def warn(text: str) -> None:
    """A line on stderr about something that does not end the command."""
    say(text, sys.stderr)
