"""`flctl predict`: what a model says of each example of a file."""

from pathlib import Path
from typing import Annotated, Any

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
from flctl.errors import UsageError
from flctl.files import expect_path
from flctl.terminal import logs, output
from flctl.terminal.patience import reading

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
        "For anomalies: flag what is above it.  [default: of a model in the folder of its run, "
        "what 99 of 100 examples of the validation part are below]",
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
    """Predict the class of each example with its probability, its number, or how unusual it is.

    If the file says what is true, it is compared with the predictions. On the device of an agent
    that has personalised CHECKPOINT (flctl personalise), its own model is used: --state names the
    agent's folder, and CHECKPOINT may be the name of the run.
    """
    from flctl.learning.correction import corrected
    from flctl.learning.origin import summary
    from flctl.learning.prediction import predict as judge
    from flctl.learning.predictions import OF
    from flctl.records.plots.style import needs_matplotlib, picture_path
    from flctl.terminal.checkpoints import (
        correction_of,
        load_model,
        own_model,
        task_of,
        threshold_of,
    )
    from flctl.terminal.results import show_predictions

    logs.set_up(verbose, quiet=True)
    expect_path(file)
    picture = None
    if plot is not None:
        needs_matplotlib()
        picture = picture_path(plot, "--plot", [checkpoint, file])
    own = None if shared else own_model(checkpoint, here.folder)
    checkpoint = own.path if own is not None else checkpoint
    chosen, learnt = task_of(checkpoint, task, heartbeats.read_as)
    model, on = load_model(learnt, checkpoint, device, private)
    with reading(file):
        cases = learnt.cases(file)
    correction = None if uncorrected else correction_of(checkpoint, learnt)
    better = corrected(learnt, model, correction)
    said = judge(learnt, model if better is None else better, cases.examples, device=on)
    cases = cases.readable
    if learnt.says == "score":
        known = own.threshold(learnt) if own is not None else threshold_of(checkpoint)
        threshold = known if threshold is None else threshold
    elif threshold is not None:
        raise UsageError(f"--threshold: the models of task '{learnt.name}' say no scores")
    found = OF[learnt.says](learnt, cases, said, threshold)
    if picture is not None:
        from flctl.records.plots.predictions import draw

        draw(picture, found, str(output.shown(file.absolute())))
    if json:
        head: dict[str, Any] = {"checkpoint": str(checkpoint), "own": own is not None}
        head |= {"task": chosen, "file": str(file)}
        head |= {"correction": correction} if correction else {}
        output.print_json(head | found.plain())
        return
    notes = [] if own is None else [f"With this device's own model, {own.path}; --global: without."]
    if not all(origin.as_documented and not origin.left_out for origin in cases.origins):
        notes += [f"Read: {line}" for line in summary(cases.origins)]
    if correction:
        notes.append("Note: corrected for how frequent the classes are; --uncorrected leaves that")
    show_predictions(found, rows, notes)
    if picture is not None:
        output.print_line(f"Look at {output.shown(picture)}.")
