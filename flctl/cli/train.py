"""`flctl train`: one run, wherever its agents are."""

import shlex
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from flctl.cli import completion
from flctl.cli.flags import OUTPUT, WHAT, typed, with_settings, written
from flctl.cli.options import At, Json, Verbose, argument, command, option, path, single
from flctl.errors import UsageError
from flctl.formats import counted
from flctl.outputs import writable
from flctl.run_toml import read_toml
from flctl.settings import CHANGEABLE, RunSettings, parse
from flctl.terminal import logs
from flctl.terminal.output import hint, warn
from flctl.values import absolute

if TYPE_CHECKING:
    from flctl.terminal.watching import Watcher

app = single()
COMMAND_LINE = "command line"
AGENTS = ("local", "virtual", "agents", "dataset")
SAVE_MODEL, TENSORBOARD = "save_model", "tensorboard"
BESIDE = (SAVE_MODEL, TENSORBOARD)
"""Keys of a file that are not settings of the run."""


@command(
    app,
    "flctl train --task ecg --rounds 10",
    "flctl train --task ecg --virtual 16 --partition dirichlet --strategy fedadam",
    "flctl train run.toml --save-model model.safetensors",
    "flctl train --resume ecg-20261127-102328",
)
@with_settings
def train(
    at: At,
    file: Path | None = argument(
        "RUN.TOML",
        'File with settings, one per line: task = "ecg". Names and values are those of the '
        "options, which take precedence; paths are relative to the current folder.",
        show_default=False,
        default=None,
    ),
    save_model: Path | None = option(
        "PATH", "Also write the final model there.", panel=OUTPUT, parser=path, default=None
    ),
    tensorboard: Path | None = option(
        "DIR",
        "Write TensorBoard events into DIR/RUN during the run.",
        panel=OUTPUT,
        parser=path,
        default=None,
    ),
    resume: str | None = option(
        "RUN",
        "Continue a paused or stopped run with its own settings; only --evaluate, --quorum, "
        "--deadline, --wait, --attempts, --evaluate-every and --jobs can be changed. If its task "
        "is not installed, name it again with --task.",
        panel=WHAT,
        complete=completion.runs,
        default=None,
    ),
    json: Json = False,
    verbose: Verbose = False,
    **settings: Any,
) -> None:
    """Train a model over a fleet, or over agents on this machine.

    A coordinator (flctl coordinator, or flctl connect) trains on its agents; --local N starts N
    agents on this machine, --virtual N simulates them. The folder of the run, in --state, keeps
    its settings, its journal and the models of the last rounds.
    """
    from flctl.terminal.training import TrainOrder, drive, inputs
    from flctl.terminal.watching import watcher

    flags = typed(settings)
    given, where = _collect(file, flags, resume)
    in_file = {key: Path(given.pop(key)) for key in BESIDE if key in given}
    save_model = save_model or in_file.get(SAVE_MODEL)
    tensorboard = tensorboard or in_file.get(TENSORBOARD)
    if resume is None:
        _warn_of_share(parse(given, where))
    if given.get("local") or given.get("virtual"):  # torch need not be loaded to find the task
        from flctl.learning.registry import check_ref

        check_ref(given["task"])
    target = None
    if save_model is not None:
        target = writable(
            save_model, "--save-model", inputs(at.folder, file, given, resume, at.context)
        )
    logs.set_up(verbose, quiet=True)
    watching = watcher(as_json=json, verbose=verbose)
    watching.expect(given)
    watching.again, watching.target = at.again, target
    order = TrainOrder(
        at.folder, at.context, given, where, resume, flags.get("task"), target, verbose
    )
    with _following(tensorboard, watching):
        result = drive(order, watching)
    if result is not None and not watching.finish(result, target):
        raise typer.Exit(1)


def _collect(
    file: Path | None, flags: dict[str, Any], resume: str | None
) -> tuple[dict[str, Any], str]:
    """The settings, and where they are from; checked before anything heavy is loaded."""
    if resume is not None:
        if not resume:
            raise UsageError("--resume '': name a run; 'flctl runs list' shows what there is")
        changes = {key: value for key, value in flags.items() if key != "task"}
        if file is not None or changes.keys() - set(CHANGEABLE):
            may = ", ".join(f"--{key.removesuffix('_s').replace('_', '-')}" for key in CHANGEABLE)
            raise UsageError(f"--resume uses the run's own settings; only {may} can be changed")
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
    parse({**in_file, **task}, str(file))  # names the place of a mistake
    parse({**flags, **task}, COMMAND_LINE)
    if "local" in flags or "virtual" in flags:  # whichever agents the file names
        in_file = {key: value for key, value in in_file.items() if key not in AGENTS}
    for chosen in ("task", "strategy", "optimizer"):  # the arguments of another one are not its own
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
    """Write the events of the run for TensorBoard too, if `folder` is given."""
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
    """Warn when there are too few agents for all to stay below --max-share."""
    agents = settings.local or settings.virtual or len(settings.agents)
    invited = settings.invited_of(agents) if agents else 0
    share = settings.max_share
    if share is not None and settings.weighting == "examples" and 0 < share * invited < 1:
        warn(
            f"max_share {share:g} cannot be kept by {counted(invited, 'agent')} "
            "a round: all weigh the same"
        )
