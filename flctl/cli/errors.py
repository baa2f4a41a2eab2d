"""The only place that turns an exception into one line on stderr and an exit code.

0      done
1      tried and failed
2      the command or its settings are wrong
130    interrupted with Ctrl-C
128+n  ended by signal n (flctl/process.py)
"""

import errno
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

import typer

from flctl.cli import completion
from flctl.errors import FlctlError, TaskError
from flctl.extras import as_missing_torch
from flctl.terminal.output import drop, give_up_stdout, print_json, say, warn

INTERRUPTED = 130
DETAILS = "FLCTL_DETAILS"
"""Set: tracebacks, also of commands that have no --verbose."""
OF_STDOUT = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EPIPE, errno.EBADF)
"""Errors of writing to a stream; errors of writing files are StateErrors."""


def fail(text: str, json: bool) -> NoReturn:
    """End a command that has printed its result; as JSON it is not printed twice."""
    if json:
        warn(text)
        raise typer.Exit(1)
    raise FlctlError(text)


def run(app: typer.Typer, args: Sequence[str]) -> int:
    """Run the command line `args` (without the program's name) and return its exit code."""
    if completion.ASKED in os.environ:
        drop(sys.stderr)  # no line but completions may reach the prompt
    try:
        return _call(app, args)
    except OSError as error:
        give_up_stdout(error)
        return 1


def _call(app: typer.Typer, args: Sequence[str]) -> int:
    """Raises OSError when stdout cannot be written."""
    try:
        code = app(args=list(args), prog_name="flctl", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except SystemExit as error:  # of the completion
        return error.code if isinstance(error.code, int) else 0
    except BaseException as error:  # a user's task may raise anything
        if isinstance(error.__cause__, KeyboardInterrupt):  # it came in the midst of an import
            return INTERRUPTED
        if isinstance(error, OSError) and error.filename is None and error.errno in OF_STDOUT:
            raise
        return _tell(app, error, args)


def _tell(app: typer.Typer, error: BaseException, args: Sequence[str]) -> int:
    """On stderr; where JSON is asked for, there too."""
    if type(error).__name__ == "NoArgsIsHelpError":  # a group that was called without a command
        sys.stdout.write(f"{error.ctx.get_help()}\n")  # type: ignore[attr-defined]
        sys.stdout.flush()
        return 0
    text, code = _in_words(app, error, args)
    say(text, sys.stderr)
    if "--json" in args:
        print_json({"event": "error", "message": text, "exit_code": code}, indent=False)
    return code


def _in_words(app: typer.Typer, error: Any, args: Sequence[str]) -> tuple[str, int]:
    """The line and the exit code."""
    verbose = any(arg in ("-v", "--verbose") for arg in args) or DETAILS in os.environ
    error = as_missing_torch(error, "this command")
    if isinstance(error, FlctlError):
        if verbose and isinstance(error, TaskError) and error.__cause__ is not None:
            traceback.print_exception(error.__cause__)  # of the user's own code
        return str(error), error.exit_code
    if isinstance(getattr(error, "exit_code", None), int) and hasattr(error, "format_message"):
        # What Typer itself found wrong.
        command = error.ctx.command_path if error.ctx is not None else _command(app, args)[0]
        return f"{error.format_message().rstrip('.')} (see: {command} --help)", error.exit_code
    text = f"{type(error).__name__}: {error}".rstrip(": ")
    if verbose:
        traceback.print_exception(error)
        return text, 1
    _, command = _command(app, args)
    knows = any("--verbose" in option.opts for option in getattr(command, "params", ()))
    how = "run again with --verbose" if knows else f"run again with {DETAILS}=1 before it,"
    return f"{text} ({how} for details)", 1


def _command(app: typer.Typer, args: Sequence[str]) -> tuple[str, Any]:
    """What these words call: its name, and the parser's command."""
    words: list[str] = ["flctl"]
    command: Any = typer.main.get_command(app)
    for arg in args:
        found = command.get_command(None, arg) if hasattr(command, "commands") else None
        if found is None:
            break
        words.append(arg)
        command = found
    return " ".join(words), command
