"""What `flctl evaluate` measures: a checkpoint on parts of the data, and of each agent's."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from flctl.files import expect_path
from flctl.fleet.own_data import data_of_run, own_of, own_of_run
from flctl.learning.correction import corrected
from flctl.learning.evaluation import measured as measure
from flctl.learning.examples import Examples
from flctl.learning.origin import ReadAs
from flctl.learning.splits import chosen_parts
from flctl.learning.task import Task
from flctl.terminal.checkpoints import correction_of, load_model, task_of
from flctl.terminal.patience import reading
from flctl.wire.messages import VALIDATION, Metrics

if TYPE_CHECKING:
    from torch import nn


class ToMeasure(NamedTuple):
    """On which data, and how."""

    task: str | None
    """None: what the checkpoint names."""
    read_as: ReadAs
    data: Path | None
    """None: the run's in whose folder the checkpoint is, else the task's own."""
    split: str
    agents: int | None
    """Number of agents that share the data; None: that of the checkpoint's run."""
    batch_size: int
    private: Path | None
    device: str


class Measured(NamedTuple):
    task: str
    learnt: Task
    parts: dict[str, Metrics]
    """The first one counts; where there is a correction, each is there twice."""
    agents: dict[str, Metrics]
    groups: dict[str, list[str]]
    """Records, patients or the like that these have been measured on, where they differ."""
    lacking: str
    """Line about agents that have no figures; may be empty."""
    data: Path | None


def measured(checkpoint: Path, wanted: ToMeasure) -> Measured:
    """Raises FlctlError."""
    learnt_from = wanted.data or data_of_run(checkpoint, "data")
    keys = ("data",) if wanted.split in ("train", VALIDATION) else ("test_data", "data")
    data = wanted.data or data_of_run(checkpoint, *keys)
    if wanted.data is not None:
        expect_path(wanted.data, f"--data {wanted.data}")
    chosen, learnt = task_of(checkpoint, wanted.task, wanted.read_as)
    with reading(data):
        parts = chosen_parts(learnt, data, wanted.split)
        own = (
            own_of_run(learnt, checkpoint, learnt_from)
            if wanted.agents is None
            else own_of(learnt, chosen, learnt_from, wanted.agents)
        )
    model, on = load_model(learnt, checkpoint, wanted.device, wanted.private)

    def of(by: "nn.Module", examples: Examples) -> Metrics:
        return measure(learnt, by, examples, batch_size=wanted.batch_size, device=on)

    found = {name: of(model, part) for name, part in parts.items()}
    each = {name: of(model, part) for name, part in own[0].items()}
    named = {name: own[0][name].group for name in each}
    groups = {name: np.unique(g).tolist() for name, g in named.items() if g is not None}
    groups = groups if len({tuple(names) for names in groups.values()}) > 1 else {}
    better = corrected(learnt, model, correction_of(checkpoint, learnt))
    if better is not None:
        found |= {f"{name}, corrected": of(better, part) for name, part in parts.items()}
    return Measured(chosen, learnt, found, each, groups, own[1], data)
