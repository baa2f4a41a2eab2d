"""`flctl predict`: what a model says of each example of a file."""

from pathlib import Path
from typing import Annotated

from flctl.cli.options import (
    Checkpoint,
    Device,
    Heartbeats,
    Here,
    Json,
    Private,
    Task,
    Verbose,
    argument,
    command,
    flag,
    option,
    path,
    single,
)
from flctl.files import expect_path
from flctl.terminal import logs, output

app = single()


@command(
    app,
    "flctl predict model.safetensors beats.csv",
    "flctl predict model.safetensors 106.hea --plot beats.png",
)
def predict(
    checkpoint: Checkpoint,
    file: Annotated[
        Path,
        argument(
            "FILE",
            "For 'ecg': .csv, .npz, a WFDB record (.hea) or a folder, with or without classes. "
            "For other tasks: what they read.",
            parser=path,
        ),
    ],
    heartbeats: Heartbeats,
    here: Here,
    task: Task = None,
    shared: bool = flag(
        "Use CHECKPOINT itself, also where the agent of --state has a model of its own for it.",
        "--global",
    ),
    rows: int = option("N", "Rows of the table at most; 0: all.", min=0, default=20),
    plot: Path | None = option("FILE", "Draw what is predicted there.", parser=path, default=None),
    threshold: float | None = option(
        "SCORE",
        "For tasks of kind Anomaly: flag what has a score above it.  [default: of a model in the "
        "folder of its run, what 99 of 100 examples of the validation part are below]",
        min=0.0,
        default=None,
    ),
    uncorrected: bool = flag(
        "For 'ecg': the probabilities as the model says them, not corrected for how frequent "
        "the classes are.",
        "--uncorrected",
    ),
    private: Private = None,
    device: Device = "auto",
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Apply a model to the examples of a file.

    Predicts the class of each example with its probability, its number, or how unusual it is. If
    the file has the true answers, they are compared with the predictions. On the device of an agent
    that has personalised CHECKPOINT (flctl personalise), its own model is used: --state names the
    agent's folder, and CHECKPOINT may be the name of the run.
    """
    from flctl.records.plots.style import needs_matplotlib, picture_path
    from flctl.terminal.predicting import ToPredict, predicted
    from flctl.terminal.results import show_predictions

    logs.set_up(verbose, quiet=True)
    expect_path(file)
    picture = None
    if plot is not None:
        needs_matplotlib()
        picture = picture_path(plot, "--plot", [checkpoint, file])
    with_own = None if shared else here.folder
    wanted = ToPredict(task, heartbeats.read_as, with_own, threshold, uncorrected, private, device)
    found, notes, head = predicted(checkpoint, file, wanted)
    if picture is not None:
        from flctl.records.plots.predictions import draw

        draw(picture, found, str(output.shown(file.absolute())))
    if json:
        output.print_json(head | found.plain())
        return
    show_predictions(found, rows, notes)
    if picture is not None:
        output.print_line(f"Look at {output.shown(picture)}.")
