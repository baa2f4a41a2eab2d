"""`flctl train`: one run, wherever its agents are."""

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flctl.cli import logs
from flctl.cli.flags import OUTPUT, WHAT, typed, with_settings
from flctl.cli.options import Context, Json, State, Verbose, state_folder
from flctl.errors import CoordinatorAway, UsageError
from flctl.settings import normalised, parse, read_toml

if TYPE_CHECKING:
    from flctl.cli.watching import Watcher
    from flctl.fleet.driving import RunResult

COMMAND_LINE = "command line"


@with_settings
def train(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="RUN.TOML",
            help='Settings, one a line: task = "ecg". Flags win over them.',
            show_default=False,
        ),
    ] = None,
    save_model: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help="Also write the final model there.", rich_help_panel=OUTPUT
        ),
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            help="Go on with a run that paused or was stopped, with the settings it has.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    state: State = None,
    context: Context = None,
    json: Json = False,
    verbose: Verbose = False,
    **settings: Any,
) -> None:
    """Train a model over a fleet, or over agents on this machine.

    With a coordinator (flctl coordinator, or flctl connect) its agents train; --local N starts
    agents on this machine, --virtual N simulates them. The run's folder in --state keeps its
    settings, its journal and the models of its last rounds.
    """
    from flctl.cli.watching import watcher

    given, where = _collect(file, typed(settings), resume)
    _check_task(given)
    folder = state_folder(state)
    target = None if save_model is None else _writable(save_model)
    logs.set_up(verbose, quiet=True)
    watching = watcher(as_json=json, verbose=verbose)
    watching.expect(given)
    if state is not None and os.environ.get("FLCTL_STATE") != str(state):
        watching.again = f" --state {state}"
    result = _drive(folder, context, given, where, resume, watching, verbose, target)
    if not watching.finish(result, target):
        raise typer.Exit(1)


def _collect(
    file: Path | None, flags: dict[str, Any], resume: str | None
) -> tuple[dict[str, Any], str]:
    """What the user has said, and where; checked before anything heavy is loaded."""
    if resume is not None:
        if file is not None or flags:
            raise UsageError("--resume goes on with the run's own settings; leave the others out")
        return {}, COMMAND_LINE
    if file is None:
        parse(flags, COMMAND_LINE)
        return flags, COMMAND_LINE
    written = read_toml(file)
    task = {"task": flags.get("task", written.get("task", "?"))}
    parse({**written, **task}, str(file))  # so that a fault is told of where it stands
    parse({**flags, **task}, COMMAND_LINE)
    given = normalised({**written, **flags}, COMMAND_LINE)
    where = f"{file} and {COMMAND_LINE}" if flags else str(file)
    parse(given, where)
    return given, where


def _check_task(given: dict[str, Any]) -> None:
    """That a task of agents on this machine is installed here; torch need not be loaded for it."""
    if given.get("local") or given.get("virtual"):
        from flctl.learning.registry import check_ref

        check_ref(given["task"])


def _writable(path: Path) -> Path:
    """`path` as a place for the model, absolute. Raises UsageError now rather than at the end."""
    target = path.expanduser().absolute()
    if target.is_dir():
        raise UsageError(
            f"--save-model {path}: is a folder; name a file, such as {path}/model.safetensors"
        )
    try:
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except OSError as error:
        raise UsageError(
            f"--save-model {path}: cannot write into {target.parent}: {error.strerror}"
        ) from error
    return target


def _drive(
    state: Path,
    context: str | None,
    given: dict[str, Any],
    where: str,
    resume: str | None,
    watching: "Watcher",
    verbose: bool,
    target: Path | None,
) -> "RunResult":
    kind = _kind(state, given, resume)
    if kind == "fleet":
        return _drive_fleet(state, context, given, where, resume, watching, target)
    from flctl.cli.models import copy_model
    from flctl.fleet.driving import drive_local, drive_virtual

    with watching:
        if kind == "virtual":
            result = drive_virtual(state, given, where, watching.on_event, resume)
        else:
            result = drive_local(state, given, where, watching.on_event, resume, verbose)
        if target is not None and result.checkpoint is not None and result.state == "finished":
            copy_model(result.checkpoint, target)
    return result


def _drive_fleet(
    state: Path,
    context: str | None,
    given: dict[str, Any],
    where: str,
    resume: str | None,
    watching: "Watcher",
    target: Path | None,
) -> "RunResult":
    from flctl.fleet.console import open_console
    from flctl.fleet.driving import drive_remote

    try:
        console = open_console(state, context)
    except CoordinatorAway as error:
        raise CoordinatorAway(
            f"{error}; or train on this machine alone with --local N or --virtual N"
        ) from error
    watching.embedded = False
    try:
        with console, watching:
            result = drive_remote(console, given, where, watching.on_event, resume)
            if target is not None and result.state == "finished":
                console.save_checkpoint(result.run, target)
    except KeyboardInterrupt:
        raise typer.Exit(0) from None
    return result


def _kind(state: Path, given: dict[str, Any], resume: str | None) -> str:
    """Where the agents are: local, virtual, or a fleet of their own."""
    if resume is None:
        return next((kind for kind in ("local", "virtual") if given.get(kind)), "fleet")
    from flctl.coordinator.runs import RunFolder, all_runs

    if not any(folder.name.startswith(resume) for folder in all_runs(state)):
        return "fleet"
    started = RunFolder.find(state, resume).history().started
    assert started is not None
    return started.kind
