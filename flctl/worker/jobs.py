"""Jobs of a worker process and its answers; nothing here needs torch.

Model blobs go along as open file descriptors: the model of a job in, the update out.
"""

from typing import Any, Literal, TypeAlias

from msgspec import Struct

from flctl.core.randomness import Seeding
from flctl.learning.origin import ReadAs, of_settings
from flctl.settings import DeviceName, LocalTraining, RunSettings, TaskArgs
from flctl.wire import messages


class DataSource(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where data come from: a file or folder (None: what ships with the task), or a part of it."""

    path: str | None = None
    shard: messages.Shard | None = None
    trained_on: bool = False
    """Agents train on it: only what they hold out is for testing."""
    beside: str | None = None
    """Where the data are that they train on, if these are for testing alone and that is known."""
    read_as: ReadAs | None = None
    """None: as the environment of the worker says."""
    all: messages.Shard | None = None
    """The first of those agents' shards, if all of them are here."""
    task_args: TaskArgs = {}
    """Those of a run; without them the task takes from the data what it can."""

    def __hash__(self) -> int:
        return hash((self.path, self.shard, self.beside))  # not of the arguments, a dict


def for_testing(settings: RunSettings) -> DataSource:
    """Data that the coordinator evaluates a run on."""
    named, data, read_as = settings.test_data, settings.data, of_settings(settings)
    first = shards_of(settings)[0] if settings.local or settings.virtual else None
    args = settings.task_args
    if named is None:
        return DataSource(path=data, trained_on=True, read_as=read_as, all=first, task_args=args)
    return DataSource(path=named, beside=data, read_as=read_as, all=first, task_args=args)


def shards_of(settings: RunSettings) -> list[messages.Shard]:
    """Shard of each local or virtual agent of a run."""
    agents = settings.virtual or settings.local or 1
    return [
        messages.Shard(
            index=index,
            of=agents,
            partition=settings.partition,
            alpha=settings.alpha,
            seed=settings.seed,
        )
        for index in range(agents)
    ]


class Job(Struct, frozen=True, kw_only=True, tag=str.lower):
    pass


class Describe(Job, frozen=True):
    """Which of `tasks` can use which of `datasets`, and how many examples there are."""

    tasks: tuple[str, ...]
    datasets: dict[str, DataSource]
    download: bool = True
    """Whether what ships with a task may be fetched when it is not here."""
    device: DeviceName = "auto"
    """Device to use; the worker checks that it is available."""


class Initialise(Job, frozen=True):
    """Complete the settings of a run with the task's defaults and make its first model."""

    given: dict[str, Any]
    where: str
    stored: bool = False
    """They are those of a run that exists, which is computed again."""


class ModelJob(Job, frozen=True, kw_only=True):
    """What to do with the model in the attached file descriptor."""

    task: str
    source: DataSource
    frozen: str | None = None
    """File of the model's frozen part."""
    private: str = ""
    """Folder where the agent keeps its private tensors of the run."""
    private_digest: messages.Digest | None = None
    """That of the names, types and shapes of the private tensors, which the run goes by."""
    limits: messages.Limits | None = None
    """What the owner of the device allows; None: all."""
    device: DeviceName = "auto"
    threads: int | None = None
    """None: torch's own choice for this machine."""
    code: messages.Digest | None = None
    """Digest of the task that the owner has enabled: with other code it is not done."""


class TrainJob(ModelJob, frozen=True, kw_only=True):
    """Train from it."""

    training: LocalTraining
    seeding: Seeding
    residuals: str
    """Folder where an agent keeps what it has not sent of a run; made when needed."""


class EvaluateJob(ModelJob, frozen=True, kw_only=True):
    """Evaluate it."""

    side: Literal["coordinator", "agent"]
    """On the coordinator: the parts of `source` for testing, and for validation if that is here; on
    an agent: those of its own that are wanted."""
    parts: tuple[messages.MeasuredPart, ...] = ("test",)
    position: int = 0
    """Batches that the agent has consumed up to this model: so are its private tensors."""
    batch_size: int = 1000


class DeriveJob(Job, frozen=True):
    """Compute the figures of torchmetrics' states, merged or an agent's."""

    task: str
    sums: messages.Sums
    task_args: TaskArgs = {}


class PersonaliseJob(ModelJob, frozen=True, kw_only=True):
    """Fine-tune it, for the agent alone."""

    run: str
    base: messages.Digest
    """Digest of that model."""
    training: LocalTraining
    tensors: tuple[str, ...]
    seeding: Seeding
    batch_size: int
    folder: str
    """Where the agent keeps its own models; made when needed."""


class Event(Struct, frozen=True, kw_only=True, tag=str.lower):
    pass


class Described(Event, frozen=True):
    datasets: tuple[messages.DatasetInfo, ...]
    torch: str
    cuda: bool
    error: str | None = None
    """Why no data set can be used by any task."""
    problems: tuple[str, ...] = ()
    """Why a task can use none of the data sets; one of each such task."""
    damaged: tuple[tuple[str, str], ...] = ()
    """(data set, task) of those whose files are there, and cannot be read for training."""


class Initialised(Event, frozen=True):
    """The first model is in the attached file descriptor, its frozen part before it."""

    settings: dict[str, Any]
    """Complete: what `flctl.settings.parse` takes."""
    task_digest: messages.Digest
    measures: messages.Measures
    blob: messages.Digest
    size: int
    begun: messages.Begun | None = None
    frozen: messages.Digest | None = None
    frozen_size: int = 0
    private: messages.Digest | None = None
    groups: dict[str, list[str]] = {}
    """Names of the groups that each local or virtual agent has."""


class Stepped(Event, frozen=True):
    step: int
    steps: int
    loss: float


class Trained(Event, frozen=True):
    """The update is in the attached file descriptor."""

    blob: messages.Digest
    size: int
    claim: messages.Claim
    available: int
    """All examples for training that there were when it began."""


class Scored(Event, frozen=True):
    parts: dict[str, messages.Sums]
    """By name of the part; the first is the one that counts. Empty: there are no data."""


class DerivedFigures(Event, frozen=True):
    values: dict[str, float]


class Personal(Event, frozen=True):
    """The agent's own model is where it belongs, or is not kept."""

    epochs: int
    """Epochs that it was trained for; 0: not kept."""
    shared: dict[messages.MeasuredPart, messages.Sums]
    own: dict[messages.MeasuredPart, messages.Sums]
    """Of the parts that the owner lets be measured; `own` is empty unless it is kept."""


class JobFailed(Event, frozen=True):
    kind: Literal[
        "worker died", "out of memory", "data", "task", "model", "owner", "usage", "error"
    ]
    message: str
    damaged: bool = False
    """With kind "data": the files exist but cannot be read."""

    @property
    def is_death(self) -> bool:
        """Whether the worker went down, so that another one may succeed."""
        return self.kind in ("worker died", "out of memory")


TRIES = 3
"""How often a worker may die over one job before it is given up."""


AnyJob: TypeAlias = Describe | Initialise | TrainJob | EvaluateJob | DeriveJob | PersonaliseJob
AnyEvent: TypeAlias = (
    Described | Initialised | Stepped | Trained | Scored | DerivedFigures | Personal | JobFailed
)
