"""One round as a pure state machine: an event or a time goes in, actions come out.

    open ─► closed ─► aggregated ─► evaluated ─► committed
      └───► failed (below quorum at the deadline) ─► retried as a new attempt

A round closes at once when no agent that is still here owes an update and the quorum is
met; at the deadline with the quorum; it fails at the deadline below it, or as soon as
the quorum cannot be met any more. Between two attempts there is a pause, and an agent
that has failed too often is asked no more where the others are enough. Where agents that
are away make it fail, the next attempt is drawn from those that are here (`draw`).
"""

import math
from collections import Counter
from collections.abc import Collection, Iterable
from enum import Enum
from typing import TypeAlias

from msgspec import Struct

from flctl.core.randomness import sample
from flctl.errors import QuorumNotMet
from flctl.settings import RunSettings
from flctl.wire.messages import Digest

FAILURES = 3
"""An agent that has failed so often in a round is left out, if the quorum can do without it."""
PAUSE_S, LONGEST_PAUSE_S = 2.0, 60.0
"""Before the second attempt; four times as long before each further one, up to the longest."""


def pause_after(attempt: int) -> float:
    """Seconds between the failure of this attempt, counted from 1, and the next one."""
    return min(LONGEST_PAUSE_S, PAUSE_S * 4.0 ** min(attempt - 1, 8))


class Pool(Struct, frozen=True):
    """Who could take part in a round."""

    wanted: frozenset[str]
    """Enrolled or named for the run, and not cordoned: the quorum counts these."""
    here: frozenset[str]
    """Those of them that can be asked now."""
    known: int
    """How many `wanted` would be if none were cordoned."""
    returning: frozenset[str] = frozenset()
    """Those that are away, and are asked if they come back while the round is open."""
    without: frozenset[str] = frozenset()
    """Those whose data have run out: the quorum does not count them until there are some again."""


class Draw(Struct, frozen=True):
    """Whom an attempt asks, and how many updates it needs."""

    invited: tuple[str, ...]
    need: int
    able: int
    """How many of the invited are here, or have delivered."""
    absent: tuple[str, ...]
    """Wanted, not invited, and not here."""

    @property
    def holds(self) -> bool:
        return self.able >= self.need


def needed(settings: RunSettings, wanted: int, known: int, least: int = 1) -> int:
    """The quorum of a round, `least` or more. Cordons do not take it below two where that of
    the whole fleet is at least two: during an upgrade one agent is not enough either."""
    floor = min(2, settings.quorum_of(settings.invited_of(known)))
    return max(settings.quorum_of(settings.invited_of(wanted)), floor, least)


def draw(
    settings: RunSettings,
    round_id: int,
    pool: Pool,
    accepted: Collection[str] = (),
    least: int = 1,
) -> Draw:
    """Those whose update is `accepted`, then the round's sample of those that are here."""
    safe = frozenset(accepted)
    room = max(0, settings.invited_of(len(pool.wanted)) - len(safe))
    asked = sample(settings.seed, round_id, sorted(pool.here - safe), room)
    back = sorted(pool.returning - pool.here - safe)
    later = sample(settings.seed, round_id, back, room - len(asked))
    invited = {*safe, *asked, *later}
    return Draw(
        invited=tuple(sorted(invited)),
        need=needed(settings, len(pool.wanted), pool.known, least),
        able=len(safe) + len(asked),
        absent=tuple(sorted((pool.wanted | pool.without) - pool.here - invited)),
    )


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
    away: tuple[str, ...] = ()
    """With these the quorum could have been met: it is their absence that ends the attempt."""


Action: TypeAlias = Invite | Pull | Accept | Discard | Aggregate | Evaluate | Commit | Fail


class Round:
    """`arrived` holds the agents whose update was accepted before (after a restart).

    `patience_s`: how long agents that are away are waited for when no other owes an update."""

    def __init__(
        self,
        round_id: int,
        base: Digest,
        invited: Iterable[str],
        need: int,
        deadline_s: float,
        arrived: Iterable[str] = (),
        attempt: int = 1,
        patience_s: float = math.inf,
    ) -> None:
        self.id = round_id
        self.base = base
        self.invited = frozenset(invited)
        self.need = need
        self.deadline_s, self.patience_s = deadline_s, patience_s
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
        self._deadline = math.inf
        self._short_since = math.inf

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

    @property
    def short(self) -> bool:
        """Too few are here for the quorum, which those who are away could still bring about."""
        return self.phase is Phase.OPEN and len(self.arrived) + len(self.waiting) < self.need

    @property
    def stuck(self) -> bool:
        """Nothing but a return helps."""
        return self.short and not self.waiting

    @property
    def tired(self) -> set[str]:
        """They have failed too often to be asked again, where the others are enough."""
        return {agent for agent in self.failed if self._failures[agent] >= FAILURES}

    def time_left(self, now: float) -> float:
        """Until the attempt ends, in seconds."""
        ends = self._deadline
        if self.stuck and self._short_since < math.inf:
            ends = min(ends, self._short_since + self.patience_s)
        return max(0.0, ends - now)

    def open(self, now: float) -> list[Action]:
        """Begin, or go on after a restart: the deadline starts anew."""
        self._deadline, self._short_since = now + self.deadline_s, math.inf
        asked = (agent for agent in self.missing if agent not in self.failed)
        return [*(Invite(agent) for agent in asked), *self._close_if_complete()]

    def give_up(self) -> list[Action]:
        """End the attempt: those who are away are waited for no longer."""
        return self._fail() if self.phase is Phase.OPEN else []

    def retry(self, now: float, drawn: Draw | None = None) -> list[Action]:
        """A new attempt after a failed one, of those who were drawn again: what was accepted
        stays, as does who is left out."""
        if self.phase is not Phase.FAILED:
            return []
        if drawn is not None:
            self.invited = frozenset(drawn.invited) | self.arrived
            self.need = drawn.need
            self.gone &= self.invited
            self.failed = {a: why for a, why in self.failed.items() if a in self.invited}
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
        if self.phase is not Phase.OPEN:
            return []
        self._short_since = min(self._short_since, now) if self.short else math.inf
        if now < self._deadline and not (self.stuck and now >= self._short_since + self.patience_s):
            return []
        return self._close() if len(self.arrived) >= self.need else self._fail()

    def on_aggregated(self) -> list[Action]:
        return self._advance(Phase.CLOSED, Phase.AGGREGATED, Evaluate())

    def on_evaluated(self) -> list[Action]:
        return self._advance(Phase.AGGREGATED, Phase.EVALUATED, Commit())

    def on_committed(self) -> None:
        self._advance(Phase.EVALUATED, Phase.COMMITTED)

    def _left_out(self) -> set[str]:
        tired = self.tired
        if len(self.invited - self.refused - tired) < self.need:
            tired = set()
        return tired | self.refused

    def _close_if_complete(self) -> list[Action]:
        if self.phase is not Phase.OPEN:
            return []
        if len(self.invited - self.failed.keys()) < self.need:
            return self._fail()
        if self.waiting or len(self.arrived) < self.need:
            return []  # those who are gone can come back for a while
        return self._close()

    def _close(self) -> list[Action]:
        self.phase = Phase.CLOSED
        return [Aggregate(tuple(sorted(self.arrived)), tuple(self.missing))]

    def _fail(self) -> list[Action]:
        could = self.short and len(self.invited - self.failed.keys()) >= self.need
        away = tuple(sorted(self.gone - self.arrived - self.failed.keys())) if could else ()
        self.phase = Phase.FAILED
        return [Fail(QuorumNotMet(self.id, len(self.arrived), self.need, self.missing), away)]

    def _advance(self, before: Phase, after: Phase, *actions: Action) -> list[Action]:
        if self.phase is not before:
            raise RuntimeError(f"round {self.id} is {self.phase.value}, not {before.value}")
        self.phase = after
        return list(actions)
