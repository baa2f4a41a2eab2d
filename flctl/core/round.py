"""One round as a pure state machine: an event or a time goes in, actions come out.

    open ─► closed ─► aggregated ─► evaluated ─► committed
      └───► failed (below quorum at the deadline) ─► retried as a new attempt

A round closes at once when nobody who is still here owes an update and the quorum is
met; at the deadline with the quorum; it fails at the deadline below it, or as soon as
the quorum cannot be met any more. Between two attempts there is a pause, and an agent
that has failed too often is asked no more where the others are enough.
"""

from collections import Counter
from collections.abc import Iterable
from enum import Enum
from typing import TypeAlias

from msgspec import Struct

from flctl.errors import QuorumNotMet
from flctl.wire.messages import Digest

FAILURES = 3
"""An agent that has failed so often in a round is left out, if the quorum can do without it."""
PAUSE_S, LONGEST_PAUSE_S = 2.0, 60.0
"""Before the second attempt; four times as long before each further one, up to the longest."""


def pause_after(attempt: int) -> float:
    """Seconds between the failure of this attempt, counted from 1, and the next one."""
    return min(LONGEST_PAUSE_S, PAUSE_S * 4.0 ** min(attempt - 1, 8))


class Phase(Enum):
    OPEN = "open"
    CLOSED = "closed"
    AGGREGATED = "aggregated"
    EVALUATED = "evaluated"
    COMMITTED = "committed"
    FAILED = "failed"


class Invite(Struct, frozen=True):
    """Ask the agent for an update, if it is connected."""

    agent: str


class Pull(Struct, frozen=True):
    """Fetch the update that the agent offers."""

    agent: str


class Accept(Struct, frozen=True):
    """Tell the agent that its update is safe."""

    agent: str


class Discard(Struct, frozen=True):
    """Tell the agent that its update is not wanted."""

    agent: str
    reason: str


class Aggregate(Struct, frozen=True):
    """The round is closed; `participants` in sorted order."""

    participants: tuple[str, ...]
    missing: tuple[str, ...]


class Evaluate(Struct, frozen=True):
    pass


class Commit(Struct, frozen=True):
    pass


class Fail(Struct, frozen=True):
    error: QuorumNotMet


Action: TypeAlias = Invite | Pull | Accept | Discard | Aggregate | Evaluate | Commit | Fail


class Round:
    """`arrived` holds the agents whose update was accepted before (after a restart)."""

    def __init__(
        self,
        round_id: int,
        base: Digest,
        invited: Iterable[str],
        need: int,
        deadline_s: float,
        arrived: Iterable[str] = (),
        attempt: int = 1,
    ) -> None:
        self.id = round_id
        self.base = base
        self.invited = frozenset(invited)
        self.need = need
        self.deadline_s = deadline_s
        self.attempt = attempt
        self.phase = Phase.OPEN
        self.arrived: set[str] = set(arrived) & self.invited
        self.offered: set[str] = set()
        """Their update is on its way here."""
        self.gone: set[str] = set()
        """Not connected; they may come back before the deadline."""
        self.failed: dict[str, str] = {}
        """They will not deliver in this attempt, and why."""
        self.refused: set[str] = set()
        """Their owners do not allow it: they are not asked again in this round."""
        self._failures: Counter[str] = Counter()
        """Attempts in which each has failed."""
        self._deadline = float("inf")

    @property
    def waiting(self) -> set[str]:
        """Agents that are here and owe an update."""
        return set(self.invited) - self.arrived - self.gone - self.failed.keys()

    @property
    def missing(self) -> list[str]:
        return sorted(self.invited - self.arrived)

    @property
    def hopeless(self) -> bool:
        """No further attempt can bring the quorum about: too many do not allow it."""
        return len(self.invited - self.refused) < self.need

    def time_left(self, now: float) -> float:
        return max(0.0, self._deadline - now)

    def open(self, now: float) -> list[Action]:
        """Begin, or go on after a restart: the deadline starts anew."""
        self._deadline = now + self.deadline_s
        asked = (agent for agent in self.missing if agent not in self.failed)
        return [*(Invite(agent) for agent in asked), *self._close_if_complete()]

    def retry(self, now: float) -> list[Action]:
        """A new attempt after a failed one: what was accepted stays, as does who is left out."""
        if self.phase is not Phase.FAILED:
            return []
        self.phase = Phase.OPEN
        self.attempt += 1
        left_out = self._left_out()
        self.failed = {agent: why for agent, why in self.failed.items() if agent in left_out}
        self.offered.clear()
        return self.open(now)

    def on_offer(self, agent: str, round_id: int, base: Digest) -> list[Action]:
        """An agent has a finished update, for this round or another.

        No action: it is on its way already, or a new attempt will ask for it.
        """
        if (round_id, base) != (self.id, self.base):
            return [Discard(agent, f"for round {round_id}, which is over")]
        if agent in self.arrived:
            return [Accept(agent)]  # our acknowledgement was lost
        if self.phase is not Phase.OPEN:
            over = Discard(agent, f"for round {round_id}, which is over")
            return [] if self.phase is Phase.FAILED else [over]
        if agent not in self.invited or agent in self.failed:
            reason = self.failed.get(agent, f"not invited to round {self.id}")
            return [Discard(agent, reason)]
        self.gone.discard(agent)
        if agent in self.offered:
            return []
        self.offered.add(agent)
        return [Pull(agent)]

    def on_stored(self, agent: str) -> list[Action]:
        """The update is in the spool, and checked."""
        if agent in self.arrived:
            return [Accept(agent)]
        if self.phase not in (Phase.OPEN, Phase.FAILED) or agent not in self.invited:
            return [Discard(agent, f"round {self.id} was over before it arrived")]
        self.offered.discard(agent)
        self.gone.discard(agent)
        self.failed.pop(agent, None)
        self.refused.discard(agent)
        self.arrived.add(agent)
        return [Accept(agent), *self._close_if_complete()]

    def on_rejected(self, agent: str, reason: str) -> list[Action]:
        """The update did not stand the checks: the agent is out for this attempt."""
        return [Discard(agent, reason), *self.on_failed(agent, reason)]

    def on_failed(self, agent: str, reason: str, refused: bool = False) -> list[Action]:
        """The agent cannot deliver; `refused`: its owner does not allow it."""
        if agent not in self.invited or agent in self.arrived:
            return []
        self.offered.discard(agent)
        if agent not in self.failed:
            self._failures[agent] += 1
        self.failed[agent] = reason
        if refused:
            self.refused.add(agent)
        return self._close_if_complete()

    def on_gone(self, agent: str) -> list[Action]:
        """The agent is known not to be connected."""
        if agent not in self.invited:
            return []
        self.offered.discard(agent)
        self.gone.add(agent)
        return self._close_if_complete()

    def on_back(self, agent: str) -> list[Action]:
        """The agent is connected (again): what it offered before, it offers anew."""
        self.gone.discard(agent)
        self.offered.discard(agent)
        owes = agent in self.invited and agent not in self.arrived and agent not in self.failed
        return [Invite(agent)] if owes and self.phase is Phase.OPEN else []

    def on_time(self, now: float) -> list[Action]:
        if self.phase is not Phase.OPEN or now < self._deadline:
            return []
        return self._close() if len(self.arrived) >= self.need else self._fail()

    def on_aggregated(self) -> list[Action]:
        return self._advance(Phase.CLOSED, Phase.AGGREGATED, Evaluate())

    def on_evaluated(self) -> list[Action]:
        return self._advance(Phase.AGGREGATED, Phase.EVALUATED, Commit())

    def on_committed(self) -> None:
        self._advance(Phase.EVALUATED, Phase.COMMITTED)

    def _left_out(self) -> set[str]:
        tired = {agent for agent in self.failed if self._failures[agent] >= FAILURES}
        if len(self.invited - self.refused - tired) < self.need:
            tired = set()
        return tired | self.refused

    def _close_if_complete(self) -> list[Action]:
        if self.phase is not Phase.OPEN:
            return []
        if len(self.invited - self.failed.keys()) < self.need:
            return self._fail()
        if self.waiting or len(self.arrived) < self.need:
            return []  # whoever is gone can come back until the deadline
        return self._close()

    def _close(self) -> list[Action]:
        self.phase = Phase.CLOSED
        return [Aggregate(tuple(sorted(self.arrived)), tuple(self.missing))]

    def _fail(self) -> list[Action]:
        self.phase = Phase.FAILED
        return [Fail(QuorumNotMet(self.id, len(self.arrived), self.need, self.missing))]

    def _advance(self, before: Phase, after: Phase, *actions: Action) -> list[Action]:
        if self.phase is not before:
            raise RuntimeError(f"round {self.id} is {self.phase.value}, not {before.value}")
        self.phase = after
        return list(actions)
