"""Answers of a coordinator to an operator, checked before any part is used.

The coordinator may belong to someone else, or be taken over: a run's name becomes a file name
here, a key part of a suggested command. Each answer is decoded into its struct here. Further
fields of a newer coordinator stay in the dict that `--json` prints; a command that reads a new
field declares it here first.
"""

from typing import Annotated, Any, TypeVar, get_args

import msgspec
from msgspec import Meta, Struct

from flctl.core import events
from flctl.core.stream import AnyLive, Published, Texts
from flctl.errors import FlctlError, MalformedMessage, decoded
from flctl.labels import Labels
from flctl.settings import AgentName
from flctl.wire.messages import (
    LOG_LINES,
    DatasetInfo,
    Digest,
    LogCursor,
    LogLine,
    Natural,
    Offset,
    RunId,
    Short,
    Trouble,
)

T = TypeVar("T")

PublicKey = Annotated[str, Meta(pattern=r"^[0-9A-Za-z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}\Z")]
"""Z85: no quote and no space, so that it can stand in a command."""
JoinToken = Annotated[str, Meta(pattern=r"^flt_[0-9a-f]{8,100}\Z")]
Names = tuple[AgentName, ...]


class InProgress(Struct, frozen=True):
    run: RunId
    round: Natural
    rounds: Natural
    phase: Short
    waiting_for: Names = ()
    why: Texts = ""
    """Agents that are needed but away, and why."""
    since_round_s: float | None = None
    """Since the last commit, or since the run began, or went on."""
    time_left_s: float | None = None
    pausing: bool = False
    """An operator pauses it: after the open round, or it is paused."""


class Pausing(Struct, frozen=True):
    run: RunId
    round: Natural | None
    """The open round, which is finished first; None: it is paused."""


class OpenRotation(Struct, frozen=True):
    """An open rotation of the server's key."""

    new_key: PublicKey
    ends: float
    ends_in_s: float
    have: Natural
    missing: Names


class CoordinatorStatus(Struct, frozen=True):
    version: Short
    uptime_s: float
    endpoint: Short
    server_key: PublicKey
    run: InProgress | None
    lost_after_s: float = 30.0
    rotation: OpenRotation | None = None


class AgentStatus(Struct, frozen=True):
    name: AgentName
    state: Short
    version: Short | None
    role: Short | None
    kind: Short | None
    arch: Short | None
    tasks: dict[Short, Digest]
    datasets: tuple[DatasetInfo, ...]
    examples: Natural
    rtt_ms: float | None
    last_seen_s: float | None
    last_round: Natural | None
    progress: tuple[Natural, Natural] | None
    last_error: Texts | None
    note: Texts | None
    temperature_c: float | None
    throttled: tuple[Short, ...] | None
    memory_used_bytes: Natural | None
    memory_total_bytes: Natural | None
    load_1m: float | None
    cordoned: bool = False
    cores: Natural | None = None
    limits: dict[Short, Natural | bool] | None = None
    image: Digest | None = None
    settings: Digest | None = None
    labels: Labels = {}
    own_labels: Labels = {}
    """What it says of itself; an operator's count more."""
    log: bool | None = None
    """Whether its owner lets operators read its log; None: it is too old, or was not seen."""
    disk_free_bytes: Natural | None = None
    disk_total_bytes: Natural | None = None
    alerts: tuple[Short, ...] = ()
    """Kinds of the alerts that fire for it."""
    cpu_percent: float | None = None
    written_bytes: Natural | None = None
    sent_bytes: Natural | None = None
    uptime_s: float | None = None
    expected: bool = False
    """It has been connected, also before the coordinator was started, and was not shut down."""
    last_heard: float | None = None
    """When it was heard last, of an expected one that is away; None: unknown."""


class AlertShown(Struct, frozen=True):
    """An alert that fires."""

    id: Natural
    alert: Short
    subject: Short
    """Agent, run or token."""
    text: Texts
    since: float
    for_s: float
    acknowledged: bool
    muted: bool


class MuteShown(Struct, frozen=True):
    name: Short
    left_s: float


class SinkShown(Struct, frozen=True):
    waiting: Natural
    failing: Texts
    """Why the last attempt failed; empty when it did not."""


class AlertList(Struct, frozen=True):
    firing: tuple[AlertShown, ...]
    muted: tuple[MuteShown, ...]
    webhook: SinkShown | None = None
    command: SinkShown | None = None


class AlertCounts(Struct, frozen=True):
    firing: dict[Short, Natural]
    """By kind, without those that are acknowledged or muted."""
    acknowledged: Natural = 0
    muted: Natural = 0


class HistoryPoints(Struct, frozen=True):
    agent: Texts
    figure: Short
    step_s: float
    points: Annotated[tuple[tuple[float, float | None], ...], Meta(max_length=10_000)]
    """Wall time of each, and its value; None where there is a gap. The oldest comes first."""


class LogPage(Struct, frozen=True):
    """The next lines of an agent's log."""

    agent: AgentName
    lines: Annotated[tuple[LogLine, ...], Meta(max_length=LOG_LINES)]
    cursor: LogCursor
    more: bool = False
    missed: Natural = 0


class WaitingKey(Struct, frozen=True):
    public_key: PublicKey


class OpenToken(Struct, frozen=True):
    id: Short
    opened: float
    expires: float
    closes_in_s: float
    uses_left: Natural
    role: Short = "agent"
    by: Short | None = None


class Shards(Struct, frozen=True):
    of: Natural
    dealt: Natural


class FleetStatus(Struct, frozen=True):
    coordinator: CoordinatorStatus
    agents: tuple[AgentStatus, ...]
    waiting: tuple[WaitingKey, ...]
    tokens: tuple[OpenToken, ...] = ()
    revoked: tuple[AgentName, ...] = ()
    shards: Shards | None = None
    alerts: AlertCounts | None = None


class Key(Struct, frozen=True):
    name: AgentName
    role: Short
    public_key: PublicKey
    shard: Short | None = None


class KeyList(Struct, frozen=True):
    server_key: PublicKey
    keys: tuple[Key, ...]
    waiting: tuple[WaitingKey, ...]
    revoked: tuple[Key, ...] = ()
    tokens: tuple[OpenToken, ...] = ()


class Best(Struct, frozen=True):
    round: Natural
    checkpoint: Texts


class RunSummary(Struct, frozen=True):
    """A run in a list."""

    run: RunId
    state: events.State
    reason: Texts | None
    kind: events.RunKind
    task: Short
    round: Natural
    rounds: Natural
    metrics: events.Score | None
    checkpoint: Texts
    started: float
    best: Best | None = None


class ShownSettings(Struct, frozen=True):
    """Fields that are read here."""

    agents: Names = ()
    compression: Short = "none"
    data: Texts | None = None
    test_data: Texts | None = None


class RunDetails(RunSummary, frozen=True, kw_only=True):
    settings: ShownSettings


class Rotated(Struct, frozen=True):
    server_key: PublicKey
    rotation: OpenRotation | None = None


class Invited(Struct, frozen=True):
    id: Short
    uses: Natural
    folder: Texts


class Fetchable(Struct, frozen=True):
    blob: Digest
    size: Offset


class Checkpoint(Fetchable, frozen=True):
    round: Natural
    frozen: Fetchable | None = None
    """The tensors that do not train."""


class _Names(Struct, frozen=True):
    """Wherever an event names agents."""

    agent: AgentName | None = None
    invited: Names = ()
    participants: dict[AgentName, Any] = {}
    missing: Names | Texts | None = ()
    agents: Names = ()
    without: dict[AgentName, Texts] = {}


KNOWN = frozenset(
    str(kind.__struct_config__.tag)
    for family in (AnyLive, events.AnyEvent)
    for kind in get_args(family)
)


def read(kind: type[T], body: object, where: str) -> T:
    """`body` as what was asked for. Raises MalformedMessage."""
    what = f"the coordinator at {where} sent an invalid answer"
    with decoded(MalformedMessage, what):
        return msgspec.convert(body, kind)


def read_field(kind: Any, body: object, name: str, where: str) -> Any:
    """The field of that name. Raises MalformedMessage."""
    return read(kind, read(dict[str, Any], body, where).get(name), where)


def read_told(body: object, where: str) -> Published | None:
    """An event as the stream has it; None for a kind that this version does not know.

    Raises MalformedMessage.
    """
    found, event = None, read(dict[str, Any], body, where).get("event")
    if read_field(str, event, "event", where) in KNOWN:
        found = read(Published, body, where)
        read(_Names, event, where)  # a journal takes any text
    return found


def whole(parts: bytearray, where: str) -> Any:
    """An answer that has come in parts. Raises MalformedMessage."""
    with decoded(MalformedMessage, f"the answer of {where} is damaged"):
        return msgspec.msgpack.decode(parts)


def as_error(trouble: Trouble) -> FlctlError:
    return trouble.kind.error(trouble.message)
