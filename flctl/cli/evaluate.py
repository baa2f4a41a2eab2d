"""`flctl evaluate`: how good a checkpoint is."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from flctl.files import expect_path
from flctl.terminal import logs
from flctl.terminal.output import print_json, print_line
from flctl.terminal.patience import reading

if TYPE_CHECKING:
    from flctl.learning.examples import Examples

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
        "PATH", f"File or folder.  [default: {OWN_DATA}]", parser=path, default=None
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
    """Measure a checkpoint: the metrics of its task on each part, and the confusion.

    For 'ecg' also corrected for how frequent the classes are, as 'predict' says them.
    """
    import msgspec

    from flctl.fleet.own_data import own_of, own_of_run
    from flctl.learning.correction import corrected
    from flctl.learning.evaluation import measured as measure
    from flctl.learning.splits import chosen_parts
    from flctl.terminal.agents import document, show_measured
    from flctl.terminal.checkpoints import correction_of, load_model, task_of
    from flctl.terminal.results import show_metrics

    logs.set_up(verbose, quiet=True)
    if data is not None:
        expect_path(data, f"--data {data}")
    chosen, learnt = task_of(checkpoint, task, heartbeats.read_as)
    with reading(data):
        parts = chosen_parts(learnt, data, split)
        own: Mapping[str, Examples] = {}
        if agents is not None:
            own = own_of(learnt, chosen, data, agents)
        elif data is None:
            own = own_of_run(learnt, checkpoint)
    model, on = load_model(learnt, checkpoint, device, private)
    how: dict[str, Any] = {"batch_size": test_batch_size, "device": on}
    found = {name: measure(learnt, model, part, **how) for name, part in parts.items()}
    each = {name: measure(learnt, model, part, **how) for name, part in own.items()}
    if (better := corrected(learnt, model, correction_of(checkpoint, learnt))) is not None:
        found |= {f"{n}, corrected": measure(learnt, better, p, **how) for n, p in parts.items()}
    (name, main), *others = found.items()
    if json:
        result = {"part": name, **msgspec.to_builtins(main), "beside": dict(others)}
        about = {"by_agent": document(each, learnt.measures)} if each else {}
        print_json({"checkpoint": str(checkpoint), "task": chosen, **result, **about})
    else:
        show_metrics(found, learnt.classes, learnt.says)
        if each:
            print_line("")
            show_measured("each on its own", each, learnt.measures, everyone)
