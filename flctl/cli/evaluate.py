"""`flctl evaluate`: how good a checkpoint is."""

from pathlib import Path

from flctl.cli.options import (
    OWN_DATA,
    Checkpoint,
    Device,
    Heartbeats,
    Json,
    Private,
    Task,
    Verbose,
    command,
    flag,
    option,
    path,
    single,
)
from flctl.terminal import logs
from flctl.terminal.output import print_json, print_line, shown

app = single()


@command(
    app,
    "flctl evaluate model.safetensors",
    "flctl evaluate model.safetensors --data beats.npz --split all",
    "flctl evaluate demo/model.safetensors --agents 4",
)
def evaluate(
    checkpoint: Checkpoint,
    heartbeats: Heartbeats,
    task: Task = None,
    data: Path | None = option(
        "PATH",
        f"File or folder.  [default: the checkpoint's run's, test data first; else {OWN_DATA}]",
        parser=path,
        default=None,
    ),
    split: str = option(
        "auto|train|validation|all|PART",
        "auto: the task's test parts, the first one counts; train: what agents train on; "
        "validation: what the best round is chosen by; all: all of these; or one part by "
        "its name.",
        default="auto",
    ),
    agents: int | None = option(
        "N",
        "Also each of N agents on what it holds out, dealt as train --virtual N deals the data. "
        "[default: the agents of the run in whose folder the checkpoint is]",
        min=1,
        default=None,
    ),
    everyone: bool = flag("All agents, not just the ten worst.", "--all"),
    test_batch_size: int = option("N", "Examples in a batch.", min=1, default=1000),
    private: Private = None,
    device: Device = "auto",
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Measure a model on test data.

    Shows the metrics of its task on each part of the data, and the confusion matrix. For 'ecg'
    also corrected for class frequencies, as in 'predict'.
    """
    import msgspec

    from flctl.terminal.agents import document, show_measured
    from flctl.terminal.measuring import ToMeasure, measured
    from flctl.terminal.results import show_metrics

    logs.set_up(verbose, quiet=True)
    wanted = ToMeasure(
        task, heartbeats.read_as, data, split, agents, test_batch_size, private, device
    )
    chosen, learnt, found, each, groups, lacking, on = measured(checkpoint, wanted)
    (name, main), *others = found.items()
    if json:
        result = {"part": name, **msgspec.to_builtins(main), "beside": dict(others)}
        result["data"] = on and str(on)
        about = {"by_agent": document(each, learnt.measures, groups)} if each else {}
        print_json({"checkpoint": str(checkpoint), "task": chosen, **result, **about})
    else:
        show_metrics(found, learnt.classes, learnt.says)
        if on is not None and data is None:
            print_line(f"\nmeasured on {shown(on)}, which the run's settings name")
        if each:
            print_line("")
            show_measured("each on its own", each, learnt.measures, everyone, groups)
        if lacking:
            print_line(lacking)
