"""`flctl train`: one run, wherever its agents are."""

import shlex
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flctl.cli import logs
from flctl.cli.flags import OUTPUT, WHAT, typed, with_settings, written
from flctl.cli.models import copy_model
from flctl.cli.options import (
    Context,
    Json,
    State,
    Verbose,
    again,
    path,
    state_folder,
)
from flctl.cli.values import absolute
from flctl.errors import CoordinatorAway, UsageError
from flctl.files import writable
from flctl.formats import counted
from flctl.settings import CHANGEABLE, RunSettings, parse, read_toml
from flctl.terminal.output import hint, warn

if TYPE_CHECKING:
    from flctl.coordinator.store.folder import RunFolder
    from flctl.core.stream import Published
    from flctl.fleet.driving import RunResult
    from flctl.terminal.watching import Watcher

COMMAND_LINE = "command line"
AGENTS = ("local", "virtual", "agents", "dataset")
SAVE_MODEL, TENSORBOARD = "save_model", "tensorboard"
BESIDE = (SAVE_MODEL, TENSORBOARD)
"""What a file may say beside the settings of the run."""


@with_settings
def train(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="RUN.TOML",
            help='Settings, one a line: task = "ecg". Names and values are those of the flags, '
            "which win over them; paths are taken from the current folder, not the file's.",
            show_default=False,
        ),
    ] = None,
    save_model: Annotated[
        Path | None,
        typer.Option(
            parser=path,
            metavar="PATH",
            help="Also write the final model there.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    tensorboard: Annotated[
        Path | None,
        typer.Option(
            parser=path,
            metavar="DIR",
            help="Write TensorBoard events into DIR/RUN as the run goes on.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            help="Go on with a run that paused or was stopped, with the settings it has, but for "
            "--evaluate, --quorum, --deadline, --wait and --attempts if you give them. Where its "
            "task is not an installed one, name that again with --task.",
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
    from flctl.terminal.watching import watcher

    flags = typed(settings)
    given, where = _collect(file, flags, resume)
    in_file = {key: Path(given.pop(key)) for key in BESIDE if key in given}
    save_model = save_model or in_file.get(SAVE_MODEL)
    tensorboard = tensorboard or in_file.get(TENSORBOARD)
    if resume is None:
        _warn_of_share(parse(given, where))
    _check_task(given)
    folder = state_folder(state)
    target = None
    if save_model is not None:
        target = writable(save_model, "--save-model", _inputs(folder, file, given, resume))
    logs.set_up(verbose, quiet=True)
    watching = watcher(as_json=json, verbose=verbose)
    watching.expect(given)
    watching.again = again(state, context)
    watching.target = target
    with _following(tensorboard, watching):
        result = _drive(
            folder, context, given, where, resume, watching, verbose, target, flags.get("task")
        )
    if not watching.finish(result, target):
        raise typer.Exit(1)


def _collect(
    file: Path | None, flags: dict[str, Any], resume: str | None
) -> tuple[dict[str, Any], str]:
    """What the user has said, and where; checked before anything heavy is loaded."""
    if resume is not None:
        if not resume:
            raise UsageError("--resume '': name a run; 'flctl runs list' shows what there is")
        changes = {key: value for key, value in flags.items() if key != "task"}
        if file is not None or changes.keys() - set(CHANGEABLE):
            may = ", ".join(f"--{key.removesuffix('_s')}" for key in CHANGEABLE)
            raise UsageError(
                f"--resume goes on with the run's own settings, but for {may}; leave the others out"
            )
        return changes, COMMAND_LINE
    if file is None:
        parse(flags, COMMAND_LINE)
        _expect_topk(flags, flags)
        return flags, COMMAND_LINE
    in_file = read_toml(file, beside=BESIDE)
    beside = {key: _path_in(file, key, in_file.pop(key)) for key in BESIDE if key in in_file}
    if isinstance(in_file.get("task"), str):
        from flctl.learning.registry import task_to_load

        task_to_load(flags.get("task"), in_file["task"], str(file))
    in_file = written(in_file, file)
    task = {"task": flags.get("task", in_file.get("task", "?"))}
    parse({**in_file, **task}, str(file))  # so that a fault is told of where it stands
    parse({**flags, **task}, COMMAND_LINE)
    if "local" in flags or "virtual" in flags:  # whichever agents the file names
        in_file = {key: value for key, value in in_file.items() if key not in AGENTS}
    for chosen in ("strategy", "optimizer"):  # the arguments of another one are not its own
        if chosen in flags and flags[chosen] != in_file.get(chosen):
            in_file.pop(f"{chosen}_args", None)
    given = {**in_file, **flags}
    _expect_topk(flags, given)
    where = f"{file} and {COMMAND_LINE}" if flags else str(file)
    parse(given, where)
    return {**given, **beside}, where


def _expect_topk(flags: dict[str, Any], given: dict[str, Any]) -> None:
    if "topk_share" in flags and given.get("compression") != "topk":
        raise UsageError("--topk-share is for --compression topk; name that too")


def _path_in(file: Path, key: str, value: object) -> str:
    """What `file` says of --save-model or --tensorboard."""
    word, kind = key.replace("_", "-"), "file" if key == SAVE_MODEL else "folder"
    if not isinstance(value, str):
        raise UsageError(f"{file}: {word}: write the path of a {kind}, in quotes")
    return absolute(value, f"{file}: {word}")


@contextmanager
def _following(folder: Path | None, watching: "Watcher") -> Iterator[None]:
    """While the run goes on, its events are written for TensorBoard too, where that is wanted."""
    if folder is None:
        yield
        return
    from flctl.records.tensorboard import Follower, needs_tensorboard

    needs_tensorboard()
    follower = Follower(folder.expanduser().absolute())
    watching.also = follower.on_event
    with closing(follower):
        yield
    hint(f"look at it with: tensorboard --logdir {shlex.quote(str(folder))}")


def _warn_of_share(settings: RunSettings) -> None:
    """So few agents cannot all stay below --max-share."""
    agents = settings.local or settings.virtual or len(settings.agents)
    invited = settings.invited_of(agents) if agents else 0
    share = settings.max_share
    if share is not None and settings.weighting == "examples" and 0 < share * invited < 1:
        warn(
            f"max_share {share:g} cannot be kept by {counted(invited, 'agent')} "
            "a round: all weigh the same"
        )


def _check_task(given: dict[str, Any]) -> None:
    """That a task of agents on this machine is installed here; torch need not be loaded for it."""
    if given.get("local") or given.get("virtual"):
        from flctl.learning.registry import check_ref

        check_ref(given["task"])


def _inputs(
    state: Path, file: Path | None, given: dict[str, Any], resume: str | None
) -> Iterator[Path]:
    """The files that the run reads."""
    if file is not None:
        yield file
    folder = _found(state, resume) if resume is not None else None
    if folder is not None:
        settings = folder.settings()
        given = {"data": settings.data, "test_data": settings.test_data}
    for key in ("data", "test_data"):
        if given.get(key) is not None:
            yield Path(given[key])


def _drive(
    state: Path,
    context: str | None,
    given: dict[str, Any],
    where: str,
    resume: str | None,
    watching: "Watcher",
    verbose: bool,
    target: Path | None,
    task: str | None,
) -> "RunResult":
    kind = _kind(state, context, given, resume)
    if kind == "fleet":
        if resume is not None and task is not None:
            raise UsageError("--resume with --task is for a run of agents on this machine")
        return _drive_fleet(state, context, given, where, resume, watching, target)
    from flctl.cli.checkpoints import expect_task
    from flctl.coordinator.store.folder import RunFolder
    from flctl.coordinator.store.journal import chain_of, published
    from flctl.extras import needs_torch
    from flctl.fleet.driving import drive_local, drive_virtual

    needs_torch("to train on this machine")
    if resume is not None:
        folder = RunFolder.find(state, resume)
        expect_task(folder, task)
        journal = folder.journal_path
        _warn_of_chain(str(journal), chain_of(journal))
        watching.recall(published(journal))
    with watching:
        if kind == "virtual":
            result = drive_virtual(state, given, where, watching.on_event, resume)
        else:
            result = drive_local(state, given, where, watching.on_event, resume, verbose)
        if target is not None and result.checkpoint is not None and result.state == "finished":
            copy_model(result.checkpoint, target, "--save-model")
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
    from flctl.coordinator.store.folder import RunFolder
    from flctl.coordinator.store.journal import shown_chain
    from flctl.fleet import pages
    from flctl.fleet.console import open_console
    from flctl.fleet.driving import drive_remote
    from flctl.fleet.heads import Heads

    try:
        console = open_console(state, context, resume or "")
    except CoordinatorAway as error:
        if resume is not None:
            RunFolder.find(state, resume)  # whether there is such a run at all
            raise
        raise CoordinatorAway(
            f"{error}; or train on this machine alone with --local N or --virtual N"
        ) from error
    watching.embedded = False
    try:
        with console, watching:
            if resume is not None:
                name = console.about(resume)["run"]
                journal = f"the journal of run {name}"
                verdict = pages.verify(partial(console.journal, name), journal)
                _warn_of_chain(journal, shown_chain(verdict))
            heads = Heads(state)

            def on_event(told: "Published") -> None:
                heads.on_event(told)
                watching.on_event(told)

            result = drive_remote(console, given, where, on_event, resume)
            if target is not None and result.state == "finished":
                console.save_checkpoint(result.run, target)
    except KeyboardInterrupt:
        raise typer.Exit(0) from None
    except CoordinatorAway as error:
        run = watching.story.run
        if not run:
            raise
        raise CoordinatorAway(
            f"{error}; the run goes on when it is back: watch it with: {watching.resume(run)}"
        ) from error
    return result


def _warn_of_chain(journal: str, chain: Mapping[str, Any]) -> None:
    """A run that is resumed goes on after a break, which is not passed over in silence."""
    if chain.get("fault"):
        warn(f"{journal}: {chain['fault']}; the run goes on after its last line")


def _kind(state: Path, context: str | None, given: dict[str, Any], resume: str | None) -> str:
    """Where the agents are: local, virtual, or a fleet of their own."""
    if resume is None:
        return next((kind for kind in ("local", "virtual") if given.get(kind)), "fleet")
    from flctl.fleet.context import LOCAL

    folder = _found(state, resume) if context in (None, LOCAL) else None
    if folder is None:
        return "fleet"
    started = folder.history(lean=True).started
    assert started is not None
    return started.kind


def _found(state: Path, run: str) -> "RunFolder | None":
    """A run of this machine."""
    from flctl.coordinator.store.folder import RunFolder, all_runs

    there = any(folder.name.startswith(run) for folder in all_runs(state))
    return RunFolder.find(state, run) if there else None
