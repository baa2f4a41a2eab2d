"""The one stream of events that all local and remote followers of a run read.

An event of the journal carries its index there, which survives a restart: who was away asks for
what came after it. Live events, which are not journaled, carry none.
"""

from typing import Annotated, Any, TypeAlias

import msgspec
from msgspec import Meta, Struct

from flctl.core import events
from flctl.settings import AgentName
from flctl.wire.messages import Natural, RunId, Short

Texts = Annotated[str, Meta(max_length=10_000)]
FROM_START = -1
"""Before the first event of a journal."""
ENDS = (events.RunPaused, events.RunFinished, events.RunFailed, events.RunStopped)
DURABLE = (events.RoundCommitted, *ENDS, events.PersonalisingEnded)
"""Events that are synced before they are published: no power cut takes their line back. A simulated
round's is synced a moment later; it is published without a head."""


def ended_by(event: object) -> str:
    """State of the run whose work it ends; empty where it ends none."""
    if isinstance(event, events.RunFinished) and event.personalises:
        return ""
    if isinstance(event, events.PersonalisingEnded):
        return "finished"
    return event.word if isinstance(event, ENDS) else ""


class Live(Struct, frozen=True, kw_only=True, tag_field="event"):
    """Base of the events that are not journaled."""


class RunBegun(Live, frozen=True, tag="begun"):
    """It starts, or continues after `round`."""

    run: RunId
    round: Natural
    rounds: Natural
    task: Short
    agents: tuple[AgentName, ...] = ()
    """Agents named for the run; empty: all that are here."""


class AgentsAwaited(Live, frozen=True, omit_defaults=True, tag="waiting"):
    missing: Texts | None = None
    """Who, and why."""
    ready: tuple[AgentName, ...] = ()
    needed: Natural | None = None
    """How many the round takes to begin, or to close; None when enough are ready."""
    round: Natural | None = None
    """The one that is open; None between rounds."""
    left_s: float | None = None


class BatchTrained(Live, frozen=True, tag="progress"):
    round: Natural
    agent: AgentName
    step: Natural
    steps: Natural
    loss: float | None = None


class AgentFailed(Live, frozen=True, tag="agent-failed"):
    round: Natural
    agent: AgentName
    kind: Short
    message: Texts
    retrying: bool = False


class AgentLost(Live, frozen=True, tag="agent-lost"):
    agent: AgentName
    reason: Texts = ""


class AgentCame(Live, frozen=True, tag="agent-here"):
    agent: AgentName


AnyLive: TypeAlias = RunBegun | AgentsAwaited | BatchTrained | AgentFailed | AgentLost | AgentCame


class Published(Struct, frozen=True, omit_defaults=True):
    run: Annotated[str, Meta(pattern=r"^([a-z0-9][a-z0-9-]{0,62})?\Z")]
    """Empty: of the fleet, while no run is in progress."""
    event: events.AnyEvent | AnyLive
    seq: Natural | None = None
    """The event's index in the journal of the run."""
    head: str = ""
    """The journal's chain up to this line, of a DURABLE event that is synced."""

    def plain(self) -> dict[str, Any]:
        """Flat, as `--json` prints it."""
        beside = {"run": self.run, "seq": self.seq, "head": self.head}
        told = {key: value for key, value in beside.items() if value not in (None, "")}
        return {**msgspec.to_builtins(self.event), **told}


class Followed:
    """Position of a reader in the events of one run, to ask for those after it.

    A power cut may take back events that were not durable; their numbers are used again.
    """

    def __init__(self, after: int = FROM_START) -> None:
        self.after = after
        """All events up to this one are here, and durable."""
        self.last = after
        self._since: dict[int, events.AnyEvent | AnyLive] = {}

    def is_new(self, told: Published) -> bool:
        """Whether it is new; from now on it counts as seen."""
        seq = told.seq
        if seq is None:
            return True
        if seq <= self.after or self._since.get(seq) == told.event:
            return False
        self.last = seq
        if isinstance(told.event, DURABLE):
            self.after, self._since = seq, {}
        else:
            self._since[seq] = told.event
        return True
