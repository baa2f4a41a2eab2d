"""One thing that the coordinator has asked for, and whether this agent may do it."""

from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from msgspec import Struct
from msgspec.structs import replace

from flctl import __version__
from flctl.agent.config import AgentConfig
from flctl.agent.limits import below_floor, too_large
from flctl.agent.state import own_models_of, private_of, residuals_of
from flctl.core.randomness import Seeding
from flctl.wire.messages import (
    Coded,
    Digest,
    Evaluate,
    Limits,
    MeasuredPart,
    Personalise,
    Personalised,
    Train,
    Whose,
    WorkKey,
)
from flctl.worker.jobs import AnyJob, DataSource, EvaluateJob, Personal, PersonaliseJob, TrainJob

AnyOrder: TypeAlias = Train | Evaluate | Personalise
What: TypeAlias = Literal["train", "evaluate", "personalise"]

FailureKind = Literal["worker died", "out of memory", "data", "task", "model", "owner", "error"]


class Order(Struct, eq=False):
    """A Train, Evaluate or Personalise that is not done yet."""

    message: AnyOrder
    tries: int = 0
    fetched_anew: bool = False
    progress_at: float = float("-inf")
    """Time from which the next progress report may be sent."""

    @property
    def key(self) -> WorkKey:
        return self.message.key

    @property
    def blobs(self) -> set[Digest]:
        """What is fetched for it."""
        model = self.message.model
        return {part.blob for part in (model.shared, model.frozen) if part is not None}

    @property
    def what(self) -> What:
        match self.message:
            case Train():
                return "train"
            case Evaluate():
                return "evaluate"
            case Personalise():
                return "personalise"

    @property
    def pace(self) -> Literal["train", "evaluate"]:
        """What it counts as for the owner's limit of work in an hour."""
        return "evaluate" if isinstance(self.message, Evaluate) else "train"

    def coded(self, blob: Digest, size: int) -> Coded:
        """How its outcome travels."""
        assert isinstance(self.message, Train)
        codec = self.message.training.compression
        base = None if codec == "none" else self.key.base
        return Coded(blob=blob, size=size, codec=codec, base=base)

    def is_same_as(self, message: AnyOrder) -> bool:
        number = getattr(message, "number", None)
        same = self.key == message.key and type(self.message) is type(message)
        return same and getattr(self.message, "number", None) == number

    def goes_with(self, later: AnyOrder) -> bool:
        """Whether it stays wanted when `later` comes: another kind of work on the same model.

        An order for another model means that the coordinator has moved on.
        """
        same_model = (self.key.run, self.key.base) == (later.key.run, later.key.base)
        return same_model and type(self.message) is not type(later)


class Refusal(Struct, frozen=True):
    """Refusal of an order."""

    kind: FailureKind
    text: str
    again_s: float | None = None
    """The order may be repeated after this time; None: never on this device as configured."""


def refusal(
    order: Order,
    config: AgentConfig,
    tasks: Collection[str],
    datasets: Collection[tuple[str, str]],
    wait_s: float,
) -> "Refusal | None":
    """Reason why the owner of this agent does not allow the order, or None.

    `tasks` are those enabled, `datasets` the pairs (name, task) that can be used; `wait_s` is
    how long the owner's limit of rounds an hour makes it wait.
    """
    message = order.message
    if config.allow_tasks and message.task not in config.allow_tasks:
        allowed = ", ".join(config.allow_tasks)
        return Refusal("owner", f"task '{message.task}' is not among --allow-task {allowed}")
    if message.task not in tasks:
        have = ", ".join(tasks) or "none"
        text = f"task '{message.task}' is not enabled on this agent (enabled: {have})"
        return Refusal("task", text)
    if not isinstance(message, Evaluate) and config.role == "evaluate":
        return Refusal("task", "this agent only evaluates (its role is evaluate)")
    if not message.model.is_plain(message.key.base):
        text = (
            f"the model of the run travels in a form that flctl {__version__} does not support: "
            "upgrade this agent"
        )
        return Refusal("model", text)
    if (message.dataset, message.task) not in datasets:
        have = ", ".join(sorted(name for name, task in datasets if task == message.task))
        text = (
            f"no data set '{message.dataset}' for task '{message.task}' on this agent "
            f"(there are: {have or 'none'})"
        )
        return Refusal("data", text)
    return _beyond_limits(order, config.limits, wait_s)


def _beyond_limits(order: Order, limits: Limits, wait_s: float) -> Refusal | None:
    message = order.message
    why = too_large(message.model.size, limits)
    if message.brought and not limits.accept_weights:
        why = "the run starts from weights that an operator brought; --accept-weights allows it"
    if why is None and not isinstance(message, Evaluate):
        why = below_floor(message, limits)
    if why is not None:
        return Refusal("owner", why)
    if wait_s > 0:
        noun = "rounds" if order.pace == "train" else "evaluations"
        text = (
            f"{limits.max_rounds_per_hour} {noun} were started within an hour, as many as "
            f"--max-rounds-per-hour allows; the next one in {wait_s:.0f} s"
        )
        return Refusal("owner", text, wait_s)
    return None


def job_of(
    order: Order,
    source: DataSource,
    config: AgentConfig,
    agent: str,
    code: Digest,
    frozen: Path | None,
) -> AnyJob:
    """The job for the worker, on the data `source`; `agent` is the name that training is seeded
    with, `code` the digest of the task as it was when this agent started; the file `frozen` has
    the tensors of the model that do not train."""
    message = order.message
    shared: dict[str, Any] = {
        "task": message.task,
        "source": replace(source, task_args=message.task_args),
        "limits": config.limits,
        "device": config.device,
        "threads": config.threads,
        "code": code,
        "frozen": None if frozen is None else str(frozen),
        "private": str(private_of(config.state, message.key.run)),
        "private_digest": message.model.private,
    }
    if isinstance(message, Evaluate):
        return EvaluateJob(
            side="agent",
            batch_size=message.batch_size,
            parts=message.parts,
            position=message.position,
            **shared,
        )
    key = message.key
    if isinstance(message, Personalise):
        return PersonaliseJob(
            run=key.run,
            base=key.base,
            training=message.training,
            tensors=message.tensors,
            seeding=Seeding(message.seed, agent, key.version, 0, 0),
            batch_size=message.batch_size,
            folder=str(own_models_of(config.state)),
            **shared,
        )
    return TrainJob(
        training=message.training,
        seeding=Seeding(message.seed, agent, key.version, key.sequence, message.position),
        residuals=str(residuals_of(config.state, key.run)),
        **shared,
    )


def answers_of(message: Personalise, found: Personal) -> list[Personalised]:
    """One for each model and part: each fits into a message by itself."""
    models: list[Whose] = ["shared", "own"] if found.epochs else ["shared"]
    return [
        Personalised(
            key=message.key,
            number=message.number,
            whose=whose,
            part=part,
            sums=(found.own if whose == "own" else found.shared).get(part),
            epochs=found.epochs,
        )
        for whose in models
        for part in get_args(MeasuredPart)
    ]
