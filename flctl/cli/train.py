"""`flctl train`: one run, wherever its agents are."""

from pathlib import Path
from typing import Any

import typer

from flctl.cli import completion
from flctl.cli.flags import OUTPUT, WHAT, typed, with_settings, written
from flctl.cli.options import At, Json, Verbose, argument, command, option, path, single
from flctl.terminal import logs

app = single()


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
        "--deadline, --wait, --attempts, --evaluate-every, --jobs, --engine and --ray-address can "
        "be changed. If its task is not installed, name it again with --task.",
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
    from flctl.terminal import given as settings_of
    from flctl.terminal.training import TrainOrder, carry_out

    flags = typed(settings)
    where = settings_of.COMMAND_LINE
    if resume is not None:
        given = settings_of.resumed(file, flags, resume)
    else:
        given, where = settings_of.collected(file, flags, written)
        in_file = {key: Path(given.pop(key)) for key in settings_of.BESIDE if key in given}
        save_model = save_model or in_file.get(settings_of.SAVE_MODEL)
        tensorboard = tensorboard or in_file.get(settings_of.TENSORBOARD)
    logs.set_up(verbose, quiet=True)
    order = TrainOrder(
        at.folder, at.context, given, where, resume, flags.get("task"), file, save_model, verbose
    )
    if not carry_out(order, json, at.again, tensorboard):
        raise typer.Exit(1)
