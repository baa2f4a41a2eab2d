"""Local training: ClientUpdate of McMahan et al. 2017, Algorithm 1."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from flctl.core.personal import matches, unmatched
from flctl.core.randomness import Seeding
from flctl.errors import TaskError
from flctl.learning.device import seed_generators
from flctl.learning.examples import Batch, Examples, Indices
from flctl.learning.groups import set_training, trained
from flctl.learning.guard import blame, forward
from flctl.learning.limits import check_batches, within
from flctl.learning.loader import BatchPlan, load, moved
from flctl.learning.optimizer import make_optimizer, take_step
from flctl.learning.reuse import Reused
from flctl.learning.state import assign, is_finite, snapshot
from flctl.learning.task import Loss, Task
from flctl.settings import LocalTraining
from flctl.wire.messages import Claim, Limits

OnStep = Callable[[int, int, float], None]
"""Called with the batches done, the batches of the whole round, and the loss of the last batch."""


@dataclass(frozen=True)
class LocalResult:
    """Result of one agent's training in one round."""

    state: dict[str, Tensor]
    """The model's new state dict, on the CPU."""
    examples: int
    """The weight nₖ: distinct examples that were trained on in the round, or all that the agent
    has where `federate_after_n_batches` ends its part early."""
    batches: int
    loss: float
    """Mean over the batches."""
    last_loss: float
    exhausted: bool
    """Whether all the data were seen at least once since the run began."""
    broken: int = 0
    """Examples that could not be read."""
    left_out: int = 0
    """Examples of each epoch that make a batch below the owner's floor: not trained on."""

    def claim(
        self, compression_error: float, seconds: float, of: Examples, private_lost: bool
    ) -> Claim:
        return Claim(
            examples=self.examples,
            batches=self.batches,
            loss=self.loss,
            last_loss=self.last_loss,
            seconds=seconds,
            exhausted=self.exhausted,
            compression_error=compression_error,
            left_out=self.left_out,
            broken=self.broken,
            data=of.digest,
            private_lost=private_lost,
        )


def train_locally(
    task: Task,
    start: Mapping[str, Tensor],
    examples: Examples,
    training: LocalTraining,
    seeding: Seeding,
    *,
    device: torch.device | None = None,
    on_step: OnStep | None = None,
    limits: Limits | None = None,
    reused: Reused | None = None,
    only: Sequence[str] = (),
) -> LocalResult:
    """Train the model `start` on the agent's next batches, with a fresh optimiser.

    `limits` are those of the device's owner; `reused` has the task's module; `only` are patterns
    of the parameters that change, none: all of them that the task trains. The result is a
    function of the other arguments alone. Raises OwnerRefuses before the first step, SettingsError
    for an optimiser that cannot be used, CheckpointError for another model's `start`, and
    TaskError when the loss or a parameter is not finite.
    """
    device = device or torch.device("cpu")
    training, left_out = within(training, len(examples), limits)
    agent, position = seeding.agent, seeding.position
    plan = BatchPlan(len(examples), training, seed=seeding.seed, agent=agent)
    steps = plan.steps(training)
    if training.federate_after_n_batches is None:
        position += -position % plan.per_epoch  # data that have changed begin an epoch of their own
    if limits is not None:
        # Of more than two epochs, these have every example and the shortest batch.
        first = range(position, position + min(steps, 2 * plan.per_epoch))
        check_batches([plan.batch(number) for number in first], steps, limits)
    if reused is not None:
        model = reused.begin(start, device)
    else:
        model = task.model()
        assign(model, start)
        model.to(device)
    if only:
        hold(model, only)
    set_training(model)
    weights = trained(model)
    optimizer = make_optimizer(training, weights)
    anchor = [p.detach().clone() for p in weights] if training.proximal_mu else None
    loss_of = task.training_loss(examples)

    def diverged(step: int, what: str) -> TaskError:
        return TaskError(
            f"task '{task.name}', agent {agent}, round {seeding.round}, "
            f"step {step} of {steps}: {what}; begin a new run with a lower lr"
            + (" or proximal_mu" if training.proximal_mu else "")
        )

    seed_generators(seeding.derive("train"), device)
    seen = np.zeros(len(examples), dtype=bool)
    batches = _drawn(plan, range(position, position + steps), seen)
    total = loss = 0.0
    for step, (x, y) in enumerate(load(task, examples, batches), start=1):
        batch = (task.inputs(moved(x, device), training=True), y.to(device))
        try:
            loss = _step(
                task, model, weights, optimizer, loss_of, batch, anchor, training.proximal_mu
            )
        except TaskError as error:
            if len(y) > 1:
                raise
            raise TaskError(
                f"{error}; the last batch of agent {agent} has one example: begin a new run with "
                "--drop-last"
            ) from error
        if not math.isfinite(loss):
            raise diverged(step, f"the loss is {loss}")
        total += loss
        if on_step is not None:
            on_step(step, steps, loss)
    for name, weight in model.named_parameters():
        if weight.requires_grad and not is_finite(weight):
            raise diverged(steps, f"parameter {name} is not finite")

    seen[list(examples.broken)] = False
    return LocalResult(
        state=snapshot(model),
        examples=_weight(seen, training),
        batches=steps,
        loss=total / step,
        last_loss=loss,
        exhausted=position + steps >= plan.per_epoch,
        left_out=left_out,
        broken=len(examples.broken),
    )


def hold(model: nn.Module, only: Sequence[str]) -> None:
    """Keep the parameters that match none of these patterns as they are. Raises TaskError."""
    parameters = dict(model.named_parameters())
    if problem := unmatched(only, parameters):
        raise TaskError(problem)
    for name, parameter in parameters.items():
        if not matches(name, only):
            parameter.requires_grad_(False)


def _drawn(
    plan: BatchPlan, positions: Iterable[int], seen: npt.NDArray[np.bool_]
) -> Iterator[Indices]:
    """The batches at `positions`, one at a time: a round may have a million. Marks their
    examples in `seen`."""
    for position in positions:
        indices = plan.batch(position)
        seen[indices] = True
        yield indices


def _weight(seen: npt.NDArray[np.bool_], training: LocalTraining) -> int:
    """nₖ of McMahan et al. 2017, with which Σ nₖ/n · Fₖ is the loss over everybody's examples.

    Agents that stop after the same number of batches are at the same point of their way: what
    they have touched so far says nothing of how much data they speak for.
    """
    if training.federate_after_n_batches is not None:
        return len(seen)
    return int(np.count_nonzero(seen))


def _step(
    task: Task,
    model: nn.Module,
    weights: Sequence[Tensor],
    optimizer: torch.optim.Optimizer,
    loss_of: Loss,
    batch: Batch,
    anchor: Sequence[Tensor] | None,
    mu: float,
) -> float:
    """w ← w − η∇ℓ(w; b); the loss before it.

    With the round's first weights as `anchor` that of FedProx (Li et al. 2020, "Federated
    Optimization in Heterogeneous Networks"): w ← w − η(∇ℓ(w; b) + μ(w − wᵗ)).
    """
    x, y = batch

    def closure() -> float:
        """What optimisers that look at a batch several times (LBFGS) call."""
        for weight in weights:
            weight.grad = None
        loss = loss_of(forward(task, model, x), y)
        try:
            loss.backward()  # type: ignore[no-untyped-call]
        except (Exception, SystemExit) as error:
            blame(task, "the backward pass", error)
        if anchor is not None:
            for weight, start in zip(weights, anchor, strict=True):
                if weight.grad is not None:
                    weight.grad.add_(weight.detach() - start, alpha=mu)
        return float(loss.detach())

    return take_step(optimizer, closure)
