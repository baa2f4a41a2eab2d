"""All messages that agents, guests, operators and the coordinator exchange.

Each is a frozen struct that refuses unknown fields; the three unions at the end say
who may send what. Bounds are part of the types, so that decoding is checking.
"""

from typing import Annotated, Any, Literal, TypeAlias

from msgspec import Meta, Struct, structs

from flctl.errors import ErrorKind
from flctl.labels import Labels
from flctl.settings import AgentName, LocalTraining, Partition, Pattern, Seed, TaskArgs

Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
"""sha256 of a blob, in lower-case hexadecimal."""
RunId = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,62}\Z")]
Short = Annotated[str, Meta(max_length=200)]
Life = Annotated[str, Meta(max_length=200)]
Text = Annotated[str, Meta(max_length=2000)]
PublicKey = Annotated[str, Meta(min_length=40, max_length=40)]
"""In Z85."""
Session = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]
Natural = Annotated[int, Meta(ge=0, le=2**53)]
Seconds = Annotated[float, Meta(ge=0, le=1e12)]
Role = Literal["train", "evaluate"]
Offset = Annotated[int, Meta(ge=0, le=2**40)]
BlobSize = Annotated[int, Meta(ge=0, le=2**35)]
"""Size of a model that an agent fetches: 32 GiB is more than any device here can train."""
Floor = Annotated[int, Meta(ge=1, le=2**31)]

MOST_CLASSES = 3000
"""Maximum number of classes of a task whose model is measured: more do not fit into a message."""
MOST_NAMED = 100
"""Maximum number of classes whose names are recorded with a run."""
MOST_STATES = 4096
"""Maximum numbers in the states of a metric of torchmetrics."""
CHUNK_BYTES = 256 * 1024
"""The most that one Chunk carries."""


class Message(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag=str.lower):
    """Base of all messages; the class name in lower case is its tag."""


class Part(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A piece of a message."""


class WorkKey(Part, frozen=True):
    """Key of a piece of work. With the agent's name it identifies an update, or an evaluation."""

    run: RunId
    version: Annotated[int, Meta(ge=0, le=10**9)]
    """Version of the model that the work starts from; 0 is the one that the run begins with."""
    base: Digest
    """Digest of that model."""
    sequence: Natural = 0
    """The agent's own number of its update, from 1. The coordinator hands it out: an order that is
    repeated has the same number, and brings the same bytes. 0: an evaluation."""

    @property
    def round(self) -> int:
        """Number of the round, as people count it."""
        return self.version + bool(self.sequence)


class Coded(Part, frozen=True):
    """Tensors as a blob that travels: as they are, or what `codec` says of a change of `base`."""

    blob: Digest
    size: BlobSize
    codec: Short = "none"
    base: Digest | None = None


class Model(Part, frozen=True):
    """The three groups of a model's tensors."""

    shared: Coded
    """Averaged; an update holds these."""
    frozen: Coded | None = None
    """Travel once, and never up."""
    private: Digest | None = None
    """Digest of the names, types and shapes of the tensors that never leave an agent."""

    @property
    def size(self) -> int:
        """Bytes of what travels."""
        return self.shared.size + (self.frozen.size if self.frozen is not None else 0)

    def is_plain(self, base: Digest) -> bool:
        """Whether its tensors travel as they are, the one form in use so far; `base` names those
        that are shared."""
        parts = [part for part in (self.shared, self.frozen) if part is not None]
        return self.shared.blob == base and all(
            part == Coded(blob=part.blob, size=part.size) for part in parts
        )


class Claim(Part, frozen=True):
    """What an agent reports about its update."""

    examples: Annotated[int, Meta(ge=1, le=2**53)]
    """The weight: distinct examples of the round, or all where batches are limited."""
    batches: Annotated[int, Meta(ge=1, le=2**31)]
    loss: float
    """Mean over the batches."""
    last_loss: float
    seconds: Seconds
    exhausted: bool = False
    """All data of the agent were seen at least once since the run began."""
    compression_error: float = 0.0
    """‖v − v̂‖/‖v‖ of what was compressed and what is sent for it; 0: sent as it is."""
    left_out: Natural = 0
    """Examples of each epoch in a last batch below the owner's floor: not trained on."""
    broken: Natural = 0
    """Examples that could not be read, and were left out; the agent's log names them."""
    data: Digest | None = None
    """Digest of the agent's training examples, as they were when the work began."""
    private_lost: bool = False
    """Its private tensors were lost: it has begun with the first ones again."""


class Deal(Part, frozen=True):
    """How a data set that several agents have is divided among them."""

    of: Annotated[int, Meta(ge=1, le=10**6)]
    """Number of equal owners."""
    partition: Partition
    alpha: Annotated[float, Meta(gt=0, le=1e9)] = 0.5
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] = 1


class Shard(Deal, frozen=True, kw_only=True):
    """Part `index` (from 0) of the division."""

    index: Annotated[int, Meta(ge=0, lt=10**6)]

    @classmethod
    def of_deal(cls, deal: Deal, index: int) -> "Shard":
        return cls(index=index, **structs.asdict(deal))

    @property
    def deal(self) -> Deal:
        return Deal(**{name: getattr(self, name) for name in Deal.__struct_fields__})

    def __str__(self) -> str:
        return f"{self.index + 1}/{self.of} {self.partition}"


class DatasetInfo(Part, frozen=True):
    """One named data set of an agent, as one task sees it."""

    name: Short
    task: Short
    examples: Natural
    """For training."""
    validation: Natural = 0
    """Validation examples of the agent."""
    held_out: Natural = 0
    """Test examples of the agent."""
    data: Digest | None = None
    """Digest of the training examples."""

    def of(self, part: "MeasuredPart | None") -> int:
        """None: for training."""
        return {None: self.examples, "validation": self.validation, "test": self.held_out}[part]


class Limits(Part, frozen=True):
    """Limits set by the owner of a device; checked on the device."""

    min_examples: Floor = 16
    """Fewest distinct examples that a round trains on, or an evaluation measures on."""
    min_batch_size: Floor = 8
    """Fewest examples in any batch of a round."""
    min_batches: Floor = 1
    """Fewest batches of a round."""
    max_model_mb: Annotated[int, Meta(ge=1, le=2**15)] = 1024
    """Largest model that is fetched, in MiB."""
    max_rounds_per_hour: Annotated[int, Meta(ge=0, le=10**6)] = 0
    """Most rounds that it begins within any hour, and as many evaluations; 0: no limit."""
    accept_weights: bool = False
    """Whether it trains in runs that begin with weights that an operator has brought."""


class Device(Part, frozen=True):
    """What an agent runs on; it does not change while the agent lives."""

    kind: Short
    """For instance "Raspberry Pi 4 Model B Rev 1.4"."""
    arch: Short
    cores: Natural
    memory_bytes: Natural
    torch: Short | None = None
    cuda: bool = False


class Telemetry(Part, frozen=True):
    """How an agent's machine is; None where it cannot be measured."""

    cpu_percent: Annotated[float, Meta(ge=0, le=1e6)] | None = None
    load_1m: Annotated[float, Meta(ge=0, le=1e6)] | None = None
    memory_used_bytes: Natural | None = None
    memory_total_bytes: Natural | None = None
    disk_free_bytes: Natural | None = None
    disk_total_bytes: Natural | None = None
    temperature_c: Annotated[float, Meta(ge=-300, le=10_000)] | None = None
    throttled: tuple[Short, ...] | None = None
    """Conditions in force, such as "under-voltage"; empty when there are none."""
    written_bytes: Natural = 0
    """What this agent has written to its disk or SD card since it started."""
    sent_bytes: Natural = 0
    """What it has sent to the coordinator since it started, before encryption."""
    uptime_s: Seconds = 0.0


LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]
LOG_TEXT, LOG_LINES = 1000, 2000
LATEST = 250_000_000_000
"""In the year 9892: a calendar has no more than four digits for it."""
LogCursor = Annotated[str, Meta(pattern=r"^(?:[0-9a-f]{32}:\d{1,15}:\d{1,13}\.\d{3})?\Z")]
"""Up to where an operator has an agent's log: the agent's process, the number of the line and its
time there. Only the agent reads it; empty: nothing yet."""


class LogLine(Part, frozen=True, kw_only=False):
    at: Annotated[float, Meta(ge=0, le=LATEST)]
    """Seconds since 1970 by the agent's clock."""
    level: LogLevel
    text: Annotated[str, Meta(max_length=LOG_TEXT)]


TRAINING = "training data"
"""How the name of a part begins that agents have trained on."""
VALIDATION = "validation"
"""The part that the best round is chosen by; it is never trained on."""
MeasuredPart = Literal["validation", "test"]
Whose = Literal["shared", "own"]
"""The model that all agents have, or that of one of them."""
MetricName = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,39}\Z")]
Unit = Annotated[str, Meta(pattern=r"^[\w °%$€/·*^()+.-]{0,20}\Z")]
"""Unit of a figure, as a person writes it."""
Says = Literal["class", "labels", "number", "score"]
"""Output of a model for an example: its class, the labels that fit, numbers, or how unusual it
is."""
Row = Annotated[tuple[Natural, ...], Meta(max_length=128)]
States = Annotated[tuple[float, ...], Meta(max_length=MOST_STATES)]
Table = Annotated[tuple[Row, ...], Meta(max_length=MOST_CLASSES)]


class Metric(Part, frozen=True, kw_only=False, omit_defaults=True):
    """A figure that says how good a model is; `flctl.core.metrics` says how it is computed."""

    name: MetricName
    lower: bool = False
    """Whether less is better."""
    unit: Unit = ""


class Measures(Part, frozen=True, omit_defaults=True):
    """Metrics of a task's models."""

    metrics: Annotated[tuple[Metric, ...], Meta(min_length=1, max_length=16)]
    primary: MetricName
    """The one that the best round is chosen by."""
    classes: Natural
    says: Says = "class"
    states: Annotated[dict[MetricName, Natural], Meta(max_length=16)] = {}
    """Metrics of torchmetrics, and how many numbers the states of each have."""
    names: Annotated[tuple[Short, ...], Meta(max_length=MOST_NAMED)] = ()
    """Names of the classes, where they are few; they are for people."""

    @property
    def chooses(self) -> Metric:
        return next(metric for metric in self.metrics if metric.name == self.primary)


class Begun(Part, frozen=True):
    """The weights that a run begins with, where they are not the task's own."""

    source: Short
    """A file's name, or a run and its round."""
    digest: Digest
    """sha256 of that file."""
    tensors: Natural
    """Number of tensors that are from there, of all that the model has."""
    of: Natural


class Moments(Part, frozen=True, omit_defaults=True):
    """Mean of `count` numbers, and the sum of their squared distances from it."""

    count: Natural
    mean: float
    m2: float = 0.0


class Sums(Part, frozen=True):
    """Sums of one evaluation; those of several agents add up to one."""

    examples: Natural
    means: Annotated[dict[MetricName, Moments], Meta(max_length=40)]
    counts: Annotated[dict[MetricName, Table], Meta(max_length=4)] = {}
    """Tables, as `flctl.core.metrics` lays them out."""
    states: Annotated[dict[MetricName, States], Meta(max_length=16)] = {}
    """States of torchmetrics' metrics that add up."""


class Metrics(Part, frozen=True, omit_defaults=True):
    """How good a model is on one part of the data."""

    examples: Natural
    values: dict[MetricName, float]
    counts: dict[MetricName, Table] = {}
    """Those of the sums that they are from, where they are kept."""
    units: dict[MetricName, Unit] | None = None
    """Units of the values that have one."""
    constant: dict[MetricName, float] = {}
    """Values of the best constant answer on the same examples, where it has some."""
    detail: Digest | None = None
    """Digest of a blob with what is too large for a message; no metric uses it yet."""


# From an agent ---------------------------------------------------------------------


class Hello(Message, frozen=True):
    """First message of a session, and again when what it says has changed."""

    session: Session
    """A random number of this process: another one means another process."""
    version: Short
    role: Role
    device: Device
    tasks: dict[Short, Digest]
    """Enabled tasks and the digest of each one's code."""
    datasets: tuple[DatasetInfo, ...] = ()
    error: Text | None = None
    """Why there are no data, if so."""
    damaged: tuple[tuple[Short, Short], ...] = ()
    """(data set, task) of those whose files are there, and cannot be read for training."""
    limits: Limits | None = None
    """What its owner allows; an older agent has no limits."""
    server_keys: Annotated[tuple[PublicKey, ...], Meta(max_length=2)] = ()
    """The coordinator's keys that it has received and stored."""
    life: Life | None = None
    """Life of the coordinator met last, "" for none; None: from an agent without this field."""
    image: Digest | None = None
    """Digest of its container image, from the playbooks; None: no container, or unknown."""
    settings: Digest | None = None
    """Digest of its configuration, `flctl.agent.config.Choices`."""
    labels: Labels = {}
    """Those of its settings; an operator's count more."""
    log: bool | None = None
    """Whether its owner lets operators read its log; None: an older agent, which cannot send it."""


class Heartbeat(Message, frozen=True):
    sequence: Natural
    state: Literal["starting", "ready", "training", "evaluating", "offering", "no data"]
    telemetry: Telemetry
    rtt_ms: Annotated[float, Meta(ge=0)] | None = None
    error: Text | None = None
    """The last thing that went wrong."""


class Pong(Message, frozen=True):
    sequence: Natural


class Progress(Message, frozen=True):
    """The worker has taken `step` of `steps` batches."""

    key: WorkKey
    step: Natural
    steps: Natural
    loss: float


class UpdateReady(Message, frozen=True):
    """A finished update, offered until it is accepted or discarded."""

    key: WorkKey
    update: Coded
    claim: Claim


class Evaluated(Message, frozen=True):
    """Sums of the model `key.base` over one part of this agent's data."""

    key: WorkKey
    part: MeasuredPart
    sums: Sums | None
    """None: it has too little of that part, or nothing."""


class Personalised(Message, frozen=True):
    """Sums of the model `key.base`, or of the agent's own model, over one part of its data. The own
    model stays with it."""

    key: WorkKey
    number: Natural
    whose: Whose
    part: MeasuredPart
    sums: Sums | None
    """None: it has too little of that part, or nothing."""
    epochs: Natural = 0
    """Epochs that its own model was trained for; 0: it has not beaten the other one on the agent's
    validation part, and is not kept."""


class Failed(Message, frozen=True):
    """The agent could not do what Train, Evaluate or Personalise asked for."""

    key: WorkKey
    what: Literal["train", "evaluate", "personalise"]
    kind: Literal["worker died", "out of memory", "data", "task", "model", "owner", "error"]
    """"owner": the owner of the device does not allow it."""
    message: Text
    retrying: bool = False
    """The agent starts the work again by itself."""
    again_s: Seconds | None = None
    """With kind "owner": seconds until it is allowed; None: never with these settings."""


class LogLines(Message, frozen=True):
    """The answer to SendLog."""

    id: Natural
    lines: Annotated[tuple[LogLine, ...], Meta(max_length=LOG_LINES)] = ()
    cursor: LogCursor = ""
    more: bool = False
    """There are others after these."""
    missed: Natural = 0
    """Lines between the cursor that was given and these that are not kept any more."""
    refused: bool = False
    """The owner of the device does not allow it."""


class Goodbye(Message, frozen=True):
    """The agent stops on purpose."""


# From a guest ----------------------------------------------------------------------


# What is left out of these two is what an agent or a coordinator without shards expects.
class Join(Message, frozen=True, omit_defaults=True):
    """A request to be enrolled under `name`, with a token from `flctl keys token`."""

    token: Annotated[str, Meta(max_length=200)]
    name: AgentName | None = None
    """None: the coordinator gives one."""
    shard: bool = False
    """It asks for its part of the data."""


# From the coordinator to an agent ----------------------------------------------------


class Welcome(Message, frozen=True, omit_defaults=True):
    name: AgentName
    version: Short
    heartbeat_s: Annotated[float, Meta(ge=0.1, le=3600)]
    life: Life = ""
    """Life of this coordinator, for agents that know the field (coordinator/front/lives.py)."""


class Refused(Message, frozen=True):
    """The agent may not take part as it is; it says so and tries again later."""

    reason: Literal["conflict", "revoked", "token", "name", "guest", "task", "role"]
    message: Text
    retry_s: Annotated[float, Meta(ge=0, le=86_400)]


class Joined(Message, frozen=True, omit_defaults=True):
    name: AgentName
    shard: Shard | None = None


class ServerKeys(Message, frozen=True):
    """By which keys the coordinator is known from now on, to an agent or an operator: two while
    one is replaced by another, the new one first."""

    keys: Annotated[tuple[PublicKey, ...], Meta(min_length=1, max_length=2)]


class HelloAgain(Message, frozen=True):
    """The coordinator does not know this session."""


class HeartbeatAck(Message, frozen=True):
    sequence: Natural


class Ping(Message, frozen=True):
    sequence: Natural


class SendLog(Message, frozen=True):
    """Send the next lines of the agent's log."""

    id: Natural
    lines: Annotated[int, Meta(ge=1, le=LOG_LINES)]
    """The most; without `after`, the newest ones."""
    since_s: Seconds | None = None
    """Only lines that are no older."""
    after: LogCursor = ""


class Train(Message, frozen=True):
    """Train on `dataset` from the model `key.base`, and offer the outcome."""

    key: WorkKey
    model: Model
    task: Short
    dataset: Short
    training: LocalTraining
    seed: Seed
    position: Natural
    """Batches that this agent has consumed in committed rounds of the run."""
    settings: Digest | None = None
    """Digest of the run's run.toml."""
    brought: bool = False
    """The run began with weights that an operator has brought."""
    task_args: TaskArgs = {}


class Evaluate(Message, frozen=True):
    """Evaluate the model `key.base` on these parts of `dataset`; each is answered by itself."""

    key: WorkKey
    model: Model
    task: Short
    dataset: Short
    batch_size: Annotated[int, Meta(ge=1, le=10**9)]
    parts: Annotated[tuple[MeasuredPart, ...], Meta(min_length=1, max_length=2)]
    brought: bool = False
    position: Natural = 0
    """Batches that this agent has consumed up to this model, by which it finds its private
    tensors."""
    task_args: TaskArgs = {}


class Personalise(Message, frozen=True):
    """Fine-tune the model `key.base` on `dataset`, and keep what becomes of it if it beats that
    model on the agent's own validation part. It stays with the agent; figures alone are sent."""

    key: WorkKey
    number: Natural
    """Number of this order to the agents of the run; the answers repeat it."""
    model: Model
    task: Short
    dataset: Short
    training: LocalTraining
    """`epochs` are the most; the one after which the model does best on validation data counts."""
    seed: Seed
    batch_size: Annotated[int, Meta(ge=1, le=10**9)]
    """Of the measurements."""
    tensors: Annotated[tuple[Pattern, ...], Meta(max_length=100)] = ()
    """Parameters that are changed; empty: all that train."""
    task_args: TaskArgs = {}
    brought: bool = False
    """The run began with weights that an operator has brought."""


class NextModel(Message, frozen=True):
    """The model of the next round, if this one is committed: it may be fetched already."""

    run: RunId
    model: Coded


class Accepted(Message, frozen=True):
    """The update is safe on the coordinator's disk; the agent may forget it."""

    key: WorkKey


class Discarded(Message, frozen=True):
    """The update is not wanted; the agent forgets it."""

    key: WorkKey
    reason: Text


class Cancel(Message, frozen=True):
    """Stop all work for `run`: it was stopped, or a round closed without this agent's update."""

    run: RunId


# Both ways: blobs --------------------------------------------------------------------


class Fetch(Message, frozen=True):
    """Send `length` bytes of `blob` from `offset` on."""

    blob: Digest
    offset: Offset
    length: Annotated[int, Meta(ge=1, le=CHUNK_BYTES)]


class Chunk(Message, frozen=True):
    """The payload frame holds bytes of `blob` from `offset` on."""

    blob: Digest
    offset: Offset


class BlobGone(Message, frozen=True):
    """This blob is not here, or no longer."""

    blob: Digest


# From an operator --------------------------------------------------------------------


class Ask(Message, frozen=True):
    """A question or an order; the role of the key decides which are answered."""

    id: Natural
    what: Short
    args: dict[str, Any] = {}
    """Arguments of `what`, as `flctl.wire.questions` types them."""


class Answer(Message, frozen=True):
    id: Natural
    body: Any


class AnswerPart(Message, frozen=True):
    """The payload frame is the next part of an answer too large for one message, or of an event
    of a run that is watched: its body, encoded, whole with the `last` one."""

    id: Natural
    last: bool


class Trouble(Message, frozen=True):
    """The question `id` could not be answered."""

    id: Natural
    message: Text
    kind: ErrorKind = ErrorKind.FAILED


class RunEvent(Message, frozen=True):
    """One event of a run that is watched (`Ask(what="watch")`)."""

    id: Natural
    event: Any


FromAgent: TypeAlias = (
    Hello
    | Heartbeat
    | Pong
    | Progress
    | UpdateReady
    | Evaluated
    | Personalised
    | Failed
    | LogLines
    | Goodbye
    | Fetch
    | Chunk
    | BlobGone
)
ToCoordinator: TypeAlias = FromAgent | Join | Ask
ToAgent: TypeAlias = (
    Welcome
    | Refused
    | Joined
    | ServerKeys
    | HelloAgain
    | HeartbeatAck
    | Ping
    | SendLog
    | Train
    | Evaluate
    | Personalise
    | NextModel
    | Accepted
    | Discarded
    | Cancel
    | Fetch
    | Chunk
    | BlobGone
)
ToOperator: TypeAlias = Answer | AnswerPart | Trouble | RunEvent | Chunk | BlobGone | ServerKeys
