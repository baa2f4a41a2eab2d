"""One thing that the coordinator has asked for, and whether this agent may do it."""

from collections.abc import Collection
from typing import Literal, TypeAlias

from msgspec import Struct

from flctl.agent.config import AgentConfig
from flctl.agent.state import residuals_of
from flctl.wire.messages import Digest, Evaluate, RoundKey, Train
from flctl.worker.jobs import AnyJob, DataSource, EvaluateJob, TrainJob

Kind: TypeAlias = Literal["worker died", "out of memory", "data", "task", "model", "error"]


class Order(Struct, eq=False):
    """A Train or Evaluate that is not done yet."""

    message: Train | Evaluate
    tries: int = 0
    fetched_anew: bool = False
    progress_at: float = float("-inf")
    """When the next report of progress may go out."""

    @property
    def key(self) -> RoundKey:
        return self.message.key

    @property
    def what(self) -> Literal["train", "evaluate"]:
        return "train" if isinstance(self.message, Train) else "evaluate"

    def is_same_as(self, message: Train | Evaluate) -> bool:
        return self.key == message.key and type(self.message) is type(message)

    def goes_with(self, later: Train | Evaluate) -> bool:
        """Whether it stays wanted when `later` comes: another kind of work on the same model.

        An order for another model means that the coordinator has moved on.
        """
        same_model = (self.key.run, self.key.base) == (later.key.run, later.key.base)
        return same_model and type(self.message) is not type(later)


def refusal(
    order: Order,
    config: AgentConfig,
    tasks: Collection[str],
    datasets: Collection[tuple[str, str]],
) -> tuple[Kind, str] | None:
    """Why the owner of this agent does not let it be done, if so.

    `tasks` are those enabled, `datasets` the pairs (name, task) that can be used.
    """
    message = order.message
    if message.task not in tasks:
        have = ", ".join(tasks) or "none"
        return "task", f"task '{message.task}' is not enabled on this agent (enabled: {have})"
    if isinstance(message, Train) and config.role == "evaluate":
        return "task", "this agent only evaluates (its role is evaluate)"
    if (message.dataset, message.task) not in datasets:
        have = ", ".join(sorted(name for name, task in datasets if task == message.task))
        return "data", (
            f"no data set '{message.dataset}' for task '{message.task}' on this agent "
            f"(there are: {have or 'none'})"
        )
    return None


def job_of(
    order: Order, source: DataSource, config: AgentConfig, agent: str, code: Digest
) -> AnyJob:
    """The job for the worker, on the data `source`; `agent` is the name that training is seeded
    with, `code` the digest of the task as it was when this agent started."""
    message = order.message
    if isinstance(message, Evaluate):
        return EvaluateJob(
            task=message.task,
            source=source,
            side="agent",
            batch_size=message.batch_size,
            device=config.device,
            threads=config.threads,
            code=code,
        )
    return TrainJob(
        task=message.task,
        source=source,
        agent=agent,
        round=message.key.round,
        training=message.training,
        seed=message.seed,
        position=message.position,
        residuals=str(residuals_of(config.state, message.key.run)),
        device=config.device,
        threads=config.threads,
        code=code,
    )
