"""A model for one agent alone: that of a run, fine-tuned on its own data.

Of the epochs after which the model beats the run's on the agent's validation part, that of least
loss there counts; without any, nothing is kept. Data for testing are measured, and decide nothing.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from msgspec import Struct
from msgspec.structs import replace
from torch import Tensor

from flctl.core.metrics import LOSS, metrics_of
from flctl.core.randomness import Seeding
from flctl.learning.evaluation import evaluate
from flctl.learning.examples import Examples
from flctl.learning.limits import within
from flctl.learning.loader import BatchPlan
from flctl.learning.reuse import Reused
from flctl.learning.task import Task
from flctl.learning.training import OnStep, train_locally
from flctl.settings import LocalTraining
from flctl.wire.messages import Limits, MeasuredPart, Measures, Sums


class Way(Struct, frozen=True):
    """How it is trained."""

    training: LocalTraining
    """`epochs` are the most."""
    tensors: tuple[str, ...]
    """Patterns of the parameters that change; empty: all."""
    seeding: Seeding
    batch_size: int
    """Of the measurements."""


class Data(NamedTuple):
    """Parts of an agent's data."""

    training: Examples
    validation: Examples | None
    test: Examples | None

    @property
    def measured(self) -> dict[MeasuredPart, Examples]:
        parts: dict[MeasuredPart, Examples | None]
        parts = {"validation": self.validation, "test": self.test}
        return {name: part for name, part in parts.items() if part is not None}


class Outcome(Struct, frozen=True):
    epochs: int
    """Epochs after which its own model was best; 0: it does not beat the run's, and is not kept."""
    shared: dict[MeasuredPart, Sums]
    """Sums of the run's model, by part."""
    own: dict[MeasuredPart, Sums]
    """Those of its own; empty if it is not kept."""

    @property
    def kept(self) -> bool:
        return self.epochs > 0


def personalise(
    task: Task,
    start: Mapping[str, Tensor],
    data: Data,
    way: Way,
    *,
    device: torch.device | None = None,
    limits: Limits | None = None,
    on_step: OnStep = lambda *_: None,
    reused: Reused | None = None,
) -> tuple[Outcome, Mapping[str, Tensor]]:
    """The outcome, and the model that the agent uses from now on: its own, or `start`.

    A function of these arguments alone; `on_step`, `reused` and `limits` as in `train_locally`,
    which raises what is wrong.
    """
    made = reused or Reused(task)
    training, _ = within(way.training, len(data.training), limits)
    seeding = way.seeding
    per_epoch = BatchPlan(
        len(data.training), training, seed=seeding.seed, agent=seeding.agent
    ).per_epoch
    steps = training.epochs * per_epoch

    def sums(state: Mapping[str, Tensor], part: Examples) -> Sums:
        model = made.begin(state, device or torch.device("cpu"))
        return evaluate(task, model, part, batch_size=way.batch_size, device=device)

    shared = {name: sums(start, part) for name, part in data.measured.items()}
    least, best_state, best_epoch = math.inf, start, 0
    state = start
    for epoch in range(training.epochs if data.validation is not None else 0):
        before = epoch * per_epoch
        result = train_locally(
            task,
            state,
            data.training,
            replace(training, epochs=1),
            Seeding(seeding.seed, seeding.agent, seeding.version, epoch + 1, before),
            device=device,
            on_step=lambda step, _, loss, before=before: on_step(before + step, steps, loss),  # type: ignore[misc]
            limits=limits,
            reused=made,
            only=way.tensors,
        )
        state = result.state
        assert data.validation is not None
        found = sums(state, data.validation)
        # Figures such as macro-F1 jump with single examples of so small a part; the loss does not.
        loss = found.means[LOSS.name].mean
        if loss < least and beats(found, shared["validation"], task.measures):
            least, best_state, best_epoch = loss, state, epoch + 1
    own = {name: sums(best_state, part) for name, part in data.measured.items()}
    return Outcome(best_epoch, shared, own if best_epoch else {}), best_state


def beats(found: Sums, other: Sums, measures: Measures) -> bool:
    """Whether it is better by the task's primary metric; of equals that of less loss."""
    chooses = measures.chooses
    sign = 1 if chooses.lower else -1

    def rank(sums: Sums) -> tuple[float, float]:
        values = metrics_of(sums, measures).values
        return sign * values[chooses.name], sums.means[LOSS.name].mean

    mine, theirs = rank(found), rank(other)
    return math.isfinite(mine[1]) and mine < theirs
