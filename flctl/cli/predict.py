"""`flctl predict`: the class of each example of a file."""

from pathlib import Path
from typing import Annotated

from flctl.cli.options import (
    Checkpoint,
    Device,
    Heartbeats,
    Json,
    Task,
    Verbose,
    argument,
    command,
    option,
    path,
    single,
)
from flctl.files import expect_path
from flctl.terminal import logs

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
    task: Task = None,
    rows: Annotated[int, option("N", "Rows of the table at most; 0: all.", min=0)] = 20,
    plot: Annotated[
        Path | None, option("FILE", "Draw examples with their classes there.", parser=path)
    ] = None,
    device: Device = "auto",
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Predict the class of each example, with probabilities and the number of each class.

    If the file has classes, they are compared with the predictions.
    """
    from flctl.learning.origin import summary
    from flctl.learning.prediction import predict as judge
    from flctl.learning.predictions import Predictions
    from flctl.records.plots.style import needs_matplotlib, picture_path
    from flctl.terminal import output
    from flctl.terminal.checkpoints import load_model, task_of
    from flctl.terminal.patience import reading
    from flctl.terminal.results import show_predictions

    logs.set_up(verbose, quiet=True)
    expect_path(file)
    picture = None
    if plot is not None:
        needs_matplotlib()
        picture = picture_path(plot, "--plot", [checkpoint, file])
    chosen, learnt = task_of(checkpoint, task, heartbeats.read_as)
    model, on = load_model(learnt, checkpoint, device)
    with reading(file):
        cases = learnt.cases(file)
    found = Predictions(learnt, cases, judge(learnt, model, cases.examples, device=on))
    if picture is not None:
        from flctl.records.plots.predictions import draw

        draw(picture, found, str(output.shown(file.absolute())))
    if json:
        head = {"checkpoint": str(checkpoint), "task": chosen, "file": str(file)}
        output.print_json(head | found.plain())
        return
    notes = []
    if not all(origin.as_documented and not origin.left_out for origin in cases.origins):
        notes = [f"Read: {line}" for line in summary(cases.origins)]
    show_predictions(found, rows, notes)
    if picture is not None:
        output.print_line(f"Look at {output.shown(picture)}.")
