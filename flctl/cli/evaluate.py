"""`flctl evaluate`: how good a checkpoint is."""

from pathlib import Path

from flctl.cli.options import (
    OWN_DATA,
    Checkpoint,
    Device,
    Heartbeats,
    Json,
    Task,
    Verbose,
    command,
    option,
    path,
    single,
)
from flctl.files import expect_path
from flctl.terminal import logs
from flctl.terminal.output import print_json
from flctl.terminal.patience import reading

app = single()


@command(
    app,
    "flctl evaluate model.safetensors",
    "flctl evaluate model.safetensors --data beats.npz --split all",
)
def evaluate(
    checkpoint: Checkpoint,
    heartbeats: Heartbeats,
    task: Task = None,
    data: Path | None = option(
        "PATH", f"File or folder.  [default: {OWN_DATA}]", parser=path, default=None
    ),
    split: str = option(
        "auto|train|validation|all|PART",
        "auto: the task's test parts, the first one counts; train: what agents train on; "
        "validation: what the best round is chosen by; all: all of these; or one part by "
        "its name.",
        default="auto",
    ),
    test_batch_size: int = option("N", "Examples in a batch.", min=1, default=1000),
    device: Device = "auto",
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Measure a checkpoint: the metrics of its task on each part, and the confusion."""
    import msgspec

    from flctl.learning.evaluation import measured as measure
    from flctl.learning.splits import chosen_parts
    from flctl.terminal.checkpoints import load_model, task_of
    from flctl.terminal.results import show_metrics

    logs.set_up(verbose, quiet=True)
    if data is not None:
        expect_path(data, f"--data {data}")
    chosen, learnt = task_of(checkpoint, task, heartbeats.read_as)
    with reading(data):
        parts = chosen_parts(learnt, data, split)
    model, on = load_model(learnt, checkpoint, device)
    found = {
        name: measure(learnt, model, part, batch_size=test_batch_size, device=on)
        for name, part in parts.items()
    }
    (name, main), *others = found.items()
    if json:
        result = {"part": name, **msgspec.to_builtins(main), "beside": dict(others)}
        print_json({"checkpoint": str(checkpoint), "task": chosen, **result})
    else:
        show_metrics(found, learnt.classes)
