"""One round as a pure state machine: events and the time go in, actions come out.

The standing of each agent:

    ASKED ─► OFFERED ─► WHOLE ─► STORED ─► SAFE          OUT: not in this attempt

The phase of the round:

    open ─► closed ─► aggregated ─► evaluated ─► committed
      └─► failed ─► paused ─► open (the next attempt) or over

A closing rule says when the updates are enough. Whatever it says, a round fails at its deadline
below the quorum, or as soon as the quorum is out of reach. Between two attempts there is a pause,
and an agent that has failed too often is asked no more where the others are enough. If the
absence of agents makes an attempt fail, the next one is drawn from those that are here.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from enum import Enum
from typing import TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from flctl.core.randomness import sample
from flctl.errors import QuorumNotMet
from flctl.formats import counted
from flctl.settings import RunSettings
from flctl.wire.messages import Accepted, Cancel, Discarded, Message, UpdateReady, WorkKey

FAILURES = 3
"""After this many failures in a round an agent is left out, if the quorum can do without it."""
BACKOFF_S, LONGEST_BACKOFF_S = 2.0, 60.0
"""Before the second attempt; four times as long before each further one, up to the longest."""
STARTING_S = 180.0
"""How much longer agents are waited for while one still reads its data: a Pi imports slowly."""
CORDONED_S = 3600.0
"""Extra wait when cordons leave too few agents: an upgrade does not end a run."""


def backoff_after(attempt: int) -> float:
    """Seconds between the failure of this attempt, counted from 1, and the next one."""
    return min(LONGEST_BACKOFF_S, BACKOFF_S * 4.0 ** min(attempt - 1, 8))


# The draw ----------------------------------------------------------------------------------


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
    cordoned: frozenset[str] = frozenset()
    starting: frozenset[str] = frozenset()
    """Connected, and still reading their data."""


class Draw(Struct, frozen=True):
    """The agents that an attempt asks, and how many updates it needs."""

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
    settings: RunSettings, round_id: int, pool: Pool, accepted: Collection[str] = (), least: int = 1
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


# The closing rule --------------------------------------------------------------------------


class Closing(Struct, frozen=True):
    """When a base has its updates. This base class: as soon as `need` are here."""

    need: int
    deadline_s: float = math.inf
    """At the deadline, the updates so far are enough, or the attempt has failed."""

    def complete(self, stored: int, owing: int) -> bool:  # noqa: ARG002
        """Whether nothing more is waited for; `owing` updates may still come soon."""
        return stored >= self.need


class AllOrQuorum(Closing, frozen=True):
    """The synchronous round: all that were asked and are here, or the quorum at the deadline."""

    def complete(self, stored: int, owing: int) -> bool:
        return not owing and stored >= self.need


# One agent ---------------------------------------------------------------------------------


class Standing(Enum):
    ASKED = "asked"
    OFFERED = "offered"  # its update is on its way here
    WHOLE = "whole"  # all bytes are here
    STORED = "stored"  # checked and in the journal: it counts
    SAFE = "safe"  # on disk, and its agent knows
    OUT = "out"  # not in this attempt


class Seat(Struct):
    agent: str
    key: WorkKey
    """Key of the update that it is asked for."""
    standing: Standing = Standing.ASKED
    here: bool = True
    """It is connected, or is believed to be."""
    why: str = ""
    """Reason why it is out."""

    @property
    def counts(self) -> bool:
        return self.standing is Standing.STORED or self.standing is Standing.SAFE

    @property
    def delivered(self) -> bool:
        """All bytes have arrived: whether the agent is still connected no longer matters."""
        return self.counts or self.standing is Standing.WHOLE

    @property
    def owes(self) -> bool:
        """Its update may come soon."""
        if self.standing is Standing.ASKED or self.standing is Standing.OFFERED:
            return self.here
        return self.standing is Standing.WHOLE


# Events ------------------------------------------------------------------------------------


class Begin(Struct, frozen=True):
    """The round begins, or goes on after a restart; then those that are not `here` are given
    `grace_s` to come back."""

    here: frozenset[str]
    grace_s: float = 0.0


class Offered(Struct, frozen=True):
    agent: str
    offer: UpdateReady


class BytesComplete(Struct, frozen=True):
    agent: str


class Stored(Struct, frozen=True):
    """Result of a batch: in the journal, or unusable and why; `synced`: also durable."""

    agents: tuple[str, ...]
    unusable: Mapping[str, str] = {}
    synced: bool = True


class Synced(Struct, frozen=True):
    agents: tuple[str, ...]


class Unusable(Struct, frozen=True):
    """The update of the agent does not pass the checks."""

    agent: str
    reason: str


class Gone(Struct, frozen=True):
    """The agent is known not to be connected."""

    agent: str


class Back(Struct, frozen=True):
    """The agent is connected (again) and can be asked; it repeats what it offered before."""

    agent: str


class CannotDeliver(Struct, frozen=True):
    agent: str
    reason: str
    by_owner: bool = False
    """The owner of the device does not allow it: no attempt asks it again."""


class Looked(Struct, frozen=True):
    """The answer to `Look`."""

    pool: Pool


class Tick(Struct, frozen=True): ...


class Reached(Struct, frozen=True):
    """The last action is done: a closed round is aggregated, and so on."""

    phase: "Phase"


Event: TypeAlias = (
    Begin
    | Offered
    | BytesComplete
    | Stored
    | Synced
    | Unusable
    | Gone
    | Back
    | CannotDeliver
    | Looked
    | Tick
    | Reached
)


# Actions -----------------------------------------------------------------------------------


class Invite(Struct, frozen=True):
    agent: str


class Pull(Struct, frozen=True):
    """Fetch the update that the agent offers."""

    agent: str
    offer: UpdateReady


class Store(Struct, frozen=True):
    """Check these and journal them; their sync may continue meanwhile."""

    agents: tuple[str, ...]


class Sync(Struct, frozen=True):
    """Wait until these, which are stored, are on disk."""

    agents: tuple[str, ...]


class Tell(Struct, frozen=True):
    agent: str
    message: Message


class Look(Struct, frozen=True):
    """Find out who could take part in a further attempt."""


class Fail(Struct, frozen=True):
    """The attempt has failed."""

    attempt: int
    reason: str


class Retry(Struct, frozen=True):
    """The next attempt begins."""

    attempt: int
    drawn: Draw


class Aggregate(Struct, frozen=True):
    """The round is closed; `participants` in sorted order."""

    participants: tuple[str, ...]
    missing: tuple[str, ...]


class Measure(Struct, frozen=True): ...


class Write(Struct, frozen=True): ...


class End(Struct, frozen=True):
    """The round cannot go on; `awaits`: before these, and others, are here."""

    reason: str
    missing: frozenset[str] = frozenset()
    awaits: bool = False


Action: TypeAlias = (
    Invite | Pull | Store | Sync | Tell | Look | Fail | Retry | Aggregate | Measure | Write | End
)


# The machine -------------------------------------------------------------------------------


class Phase(Enum):
    OPEN = "open"
    FAILED = "failed"
    BACKOFF = "waiting to try again"
    OVER = "over"
    CLOSED = "closed"
    AGGREGATED = "aggregated"
    EVALUATED = "evaluated"
    COMMITTED = "committed"


LAST = (Phase.CLOSED, Phase.AGGREGATED, Phase.EVALUATED, Phase.COMMITTED)
UNDECIDED = (Phase.OPEN, Phase.FAILED, Phase.BACKOFF)
"""Phases in which a complete update still counts, in this attempt or the next one."""


class Round:
    """`key_of(agent)`: what its update has to be for; `stored`: agents whose update was accepted
    before a restart; `least`: no quorum is less."""

    def __init__(
        self,
        round_id: int,
        key_of: Callable[[str], WorkKey],
        settings: RunSettings,
        closing: Closing,
        invited: Iterable[str],
        stored: Collection[str] = (),
        attempt: int = 1,
        least: int = 1,
    ) -> None:
        self.id, self._key_of, self._least = round_id, key_of, least
        self._settings, self._closing = settings, closing
        self.attempt, self.phase = attempt, Phase.OPEN
        self.seats = {agent: Seat(agent, key_of(agent)) for agent in sorted(invited)}
        for agent in self.seats.keys() & {*stored}:
            self.seats[agent].standing = Standing.SAFE
        self._storing = False
        self._unsynced: tuple[str, ...] = ()
        self._failures: Counter[str] = Counter()
        """Attempts in which each has failed."""
        self._refused: set[str] = set()
        """Their owners do not allow it."""
        self._tries = 0
        """Failed attempts, except those that ended because agents were away."""
        self._failed: Fail | None = None
        """The last attempt, and whether those who are away could have saved it."""
        self._for_absence = False
        self._doubted: set[str] = set()
        """Agents not seen since the restart; they count as here until the grace is over."""
        self._grace_until = self._deadline = self._short_since = self._retry_at = math.inf
        self._patience_s = settings.wait_s

    # What is the case ------------------------------------------------------------------------

    @property
    def need(self) -> int:
        return self._closing.need

    @property
    def stored(self) -> set[str]:
        return {seat.agent for seat in self.seats.values() if seat.counts}

    @property
    def waiting(self) -> set[str]:
        """Agents whose update may still come."""
        return {seat.agent for seat in self.seats.values() if seat.owes}

    @property
    def missing(self) -> list[str]:
        return [seat.agent for seat in self.seats.values() if not seat.counts]

    @property
    def out(self) -> dict[str, str]:
        """Agents that do not deliver in this attempt, and why."""
        return {s.agent: s.why for s in self.seats.values() if s.standing is Standing.OUT}

    @property
    def away(self) -> set[str]:
        """Not connected, with nothing delivered; they may come back before the deadline."""
        return {s.agent for s in self.seats.values() if not s.here and not s.delivered}

    @property
    def short(self) -> bool:
        """Whether too few agents are here for the quorum."""
        stored, owing, _ = self._count()
        return self.phase is Phase.OPEN and stored + owing < self.need

    @property
    def stuck(self) -> bool:
        """Whether only the return of an absent agent can help."""
        return self.short and not self.waiting

    def time_left(self, now: float) -> float:
        """Until the attempt ends, or the next one begins, in seconds."""
        ends = self._retry_at if self.phase is Phase.BACKOFF else self._deadline
        if self.stuck:
            ends = min(ends, self._short_since + self._patience_s)
        return max(0.0, ends - now)

    # What happens ----------------------------------------------------------------------------

    def on(self, event: Event, now: float) -> list[Action]:
        actions = [*self._on(event, now)]
        if isinstance(event, Offered):  # the most frequent one; nothing follows from it
            return actions
        return [*actions, *self._end_if_due(), *self._to_disk()]

    def _on(self, event: Event, now: float) -> Iterable[Action]:  # noqa: PLR0911, PLR0912
        match event:
            case Begin(here, grace_s):
                return self._begin(here, grace_s, now)
            case Offered(agent, offer):
                return self._offered(agent, offer)
            case BytesComplete(agent):
                return self._complete(agent)
            case Stored():
                return self._stored(event)
            case Synced(agents):
                return self._safe(agents)
            case Unusable(agent, reason):
                return self._unusable(agent, reason)
            case Gone(agent):
                return self._moved(agent, here=False)
            case Back(agent):
                return self._moved(agent, here=True)
            case CannotDeliver(agent, reason, by_owner):
                if (seat := self.seats.get(agent)) is not None and not seat.delivered:
                    self._leave(agent, reason, by_owner)
                return []
            case Looked(pool):
                return self._seen(pool, now)
            case Tick():
                return self._tick(now)
            case Reached(phase):
                return self._reached(phase)

    def _begin(self, here: Collection[str], grace_s: float, now: float) -> list[Action]:
        self._deadline, self._short_since = now + self._closing.deadline_s, math.inf
        self._retry_at, self._grace_until = math.inf, now + grace_s
        asked = [s for s in self.seats.values() if s.standing is Standing.ASKED]
        absent = {seat.agent for seat in asked if seat.agent not in here}
        self._doubted = absent if grace_s else set()
        for seat in asked:
            seat.here = seat.agent not in absent or bool(grace_s)
        return [Invite(seat.agent) for seat in asked if seat.agent not in absent]

    def _offered(self, agent: str, offer: UpdateReady) -> list[Action]:
        seat, key = self.seats.get(agent), offer.key
        over: list[Action] = [_discard(agent, key, f"for round {key.round}, which is over")]
        if key.round != self.id or key.base != self._key_of(agent).base:
            return over
        if seat is not None and key != seat.key:
            return [_discard(agent, key, f"for another order of round {self.id}")]
        if seat is not None and seat.delivered:  # the acknowledgement is lost, or comes
            return [Tell(agent, Accepted(key=key))] if seat.standing is Standing.SAFE else []
        if self.phase is not Phase.OPEN:
            return [] if self.phase in UNDECIDED else over
        if seat is None or seat.standing is Standing.OUT:
            why = seat.why if seat is not None else f"not invited to round {self.id}"
            return [_discard(agent, key, why)]
        self._doubted.discard(agent)
        seat.here, seen = True, seat.standing
        seat.standing = Standing.OFFERED
        return [] if seen is Standing.OFFERED else [Pull(agent, offer)]

    def _complete(self, agent: str) -> list[Action]:
        seat = self.seats.get(agent)
        if seat is None or self.phase not in UNDECIDED:
            return self._unusable(agent, f"round {self.id} was over before it arrived")
        if not seat.delivered:
            seat.standing = Standing.WHOLE
        return []

    def _stored(self, batch: Stored) -> list[Action]:
        self._storing = False
        actions: list[Action] = []
        for agent in batch.agents:
            seat = self.seats.get(agent)
            if seat is None or self.phase not in UNDECIDED:
                actions += self._unusable(agent, f"round {self.id} was over before it arrived")
            elif not seat.counts:
                seat.standing = Standing.STORED
                self._refused.discard(agent)
        if batch.synced:
            actions += self._safe(batch.agents)
        else:
            self._unsynced += batch.agents
        for agent, reason in batch.unusable.items():
            actions += self._unusable(agent, reason)
        return actions

    def _safe(self, agents: Iterable[str]) -> list[Action]:
        seats = [self.seats[agent] for agent in agents if agent in self.seats]
        stored = [seat for seat in seats if seat.standing is Standing.STORED]
        for seat in stored:
            seat.standing = Standing.SAFE
        return [Tell(seat.agent, Accepted(key=seat.key)) for seat in stored]

    def _unusable(self, agent: str, reason: str) -> list[Action]:
        self._leave(agent, reason)
        return [_discard(agent, self._key_of(agent), reason)]

    def _leave(self, agent: str, why: str, by_owner: bool = False) -> None:
        seat = self.seats.get(agent)
        if seat is None or seat.counts:
            return
        self._failures[agent] += seat.standing is not Standing.OUT
        seat.standing, seat.why = Standing.OUT, why
        if by_owner:
            self._refused.add(agent)

    def _moved(self, agent: str, here: bool) -> list[Action]:
        seat = self.seats.get(agent)
        if seat is None:
            return []
        seat.here = here
        self._doubted.discard(agent)
        if seat.standing is Standing.OFFERED:
            seat.standing = Standing.ASKED
        ask = here and seat.standing is Standing.ASKED and self.phase is Phase.OPEN
        return [Invite(agent)] if ask else []

    def _tick(self, now: float) -> list[Action]:
        """Handle what is due: the next attempt, a grace's end, the deadline, a wait's end."""
        if self.phase is Phase.BACKOFF:
            return [Look()] if now >= self._retry_at else []
        if now >= self._grace_until:
            for agent in self._doubted:
                self.seats[agent].here = False
            self._doubted, self._grace_until = set(), math.inf
        if ended := self._end_if_due():
            return ended
        if self.phase is not Phase.OPEN or self._unstored:
            return []  # what is being stored was in time
        self._short_since = min(self._short_since, now) if self.short else math.inf
        if now >= self._deadline:
            return self._close() if len(self.stored) >= self.need else self._fail()
        return [Look()] if self.stuck else []

    def _seen(self, pool: Pool, now: float) -> list[Action]:
        match self.phase:
            case Phase.OPEN if self.stuck and not self._unstored:
                self._patience_s = self._settings.wait_s
                if self.away & pool.cordoned:
                    self._patience_s += CORDONED_S
                elif self.away & pool.starting:
                    self._patience_s += STARTING_S
                late = now >= self._short_since + self._patience_s
                return self._fail() if late or self._draw(pool, self.out).holds else []
            case Phase.FAILED:
                return self._after_failure(pool, now)
            case Phase.BACKOFF if now >= self._retry_at:
                drawn = self._draw(pool, self._tired)
                return self._retry(drawn if drawn.holds else self._draw(pool), pool, now)
        return []

    # What follows ----------------------------------------------------------------------------

    def _end_if_due(self) -> list[Action]:
        if self.phase is not Phase.OPEN:
            return []
        stored, owing, out = self._count()
        if len(self.seats) - out < self.need:
            return self._fail()
        return self._close() if self._closing.complete(stored, owing) else []

    def _count(self) -> tuple[int, int, int]:
        """How many updates count, may come soon, and do not come in this attempt."""
        stored = owing = out = 0
        for seat in self.seats.values():  # one pass: there may be hundreds, at each event
            stored += seat.counts
            owing += seat.owes
            out += seat.standing is Standing.OUT
        return stored, owing, out

    def _to_disk(self) -> list[Action]:
        """One batch at a time; all that become whole meanwhile are the next one."""
        actions: list[Action] = []
        if self._unsynced and self.phase in UNDECIDED:
            actions.append(Sync(self._unsynced))
            self._unsynced = ()
        if self._storing or self.phase not in UNDECIDED:
            return actions
        if whole := [s.agent for s in self.seats.values() if s.standing is Standing.WHOLE]:
            self._storing = True
            actions.append(Store(tuple(whole)))
        return actions

    @property
    def _unstored(self) -> bool:
        return any(seat.standing is Standing.WHOLE for seat in self.seats.values())

    def _close(self) -> list[Action]:
        """The updates are enough."""
        self.phase = Phase.CLOSED
        cancelled = [Tell(agent, Cancel(run=self.seats[agent].key.run)) for agent in self.missing]
        return [*cancelled, Aggregate(tuple(sorted(self.stored)), tuple(self.missing))]

    def _fail(self) -> list[Action]:
        """This attempt; what comes next is decided when it is known who is here."""
        could = self.short and len(self.seats.keys() - self.out.keys()) >= self.need
        self._for_absence = could and bool(self.away - self.out.keys())
        error = QuorumNotMet(self.id, len(self.stored), self.need, self.missing)
        failed = "; ".join(f"{agent}: {why}" for agent, why in self.out.items())
        self._failed = Fail(self.attempt, f"{error} [{failed}]" if failed else str(error))
        self.phase = Phase.FAILED
        return [self._failed, Look()]

    def _after_failure(self, pool: Pool, now: float) -> list[Action]:
        """Retry at once with other agents, later with the same ones, or not at all."""
        assert self._failed is not None
        others, failed = self._draw(pool, self.out), self.out.keys()
        no_more_data = failed & pool.without
        broken = failed - no_more_data
        away = self._for_absence
        if (away and others.holds) or ((away or no_more_data) and not broken):
            return self._retry(others, pool, now)
        self._tries += 1
        hopeless = len(self.seats.keys() - self._refused) < self.need and not others.holds
        if hopeless or self._tries >= self._settings.attempts:
            self.phase = Phase.OVER
            return [End(f"{self._failed.reason}, after {counted(self._tries, 'attempt')}")]
        self.phase, self._retry_at = Phase.BACKOFF, now + backoff_after(self._tries)
        return []

    def _draw(self, pool: Pool, without: Collection[str] = ()) -> Draw:
        here = replace(pool, here=pool.here - frozenset(without))
        delivered = [seat.agent for seat in self.seats.values() if seat.delivered]
        return draw(self._settings, self.id, here, delivered, self._least)

    @property
    def _tired(self) -> set[str]:
        """Agents that failed too often to be asked again while the others are enough."""
        return {agent for agent in self.out if self._failures[agent] >= FAILURES}

    def _retry(self, drawn: Draw, pool: Pool, now: float) -> list[Action]:
        """The next attempt; what was accepted stays, as does who is left out."""
        if not drawn.holds:
            self.phase = Phase.OVER
            missing = {*drawn.absent, *(self.away & {*drawn.invited})}
            reason = f"{drawn.able} of {counted(drawn.need, 'required agent')} ready"
            return [End(reason, frozenset(missing), awaits=True)]
        self._closing = replace(self._closing, need=drawn.need)
        seats = self.seats
        self.seats = {
            agent: seats.get(agent) or Seat(agent, self._key_of(agent)) for agent in drawn.invited
        }
        self.phase, self.attempt = Phase.OPEN, self.attempt + 1
        tired = self._tired
        if len(self.seats.keys() - self._refused - tired) < self.need:
            tired = set()
        for seat in self.seats.values():
            if not seat.delivered and seat.agent not in (self._refused | tired) & self.out.keys():
                seat.standing, seat.why = Standing.ASKED, ""
        return [Retry(self.attempt, drawn), *self._begin(pool.here, 0.0, now)]

    def _reached(self, phase: Phase) -> list[Action]:
        """Raises RuntimeError when that is not what was to be done."""
        before = LAST[LAST.index(phase) - 1]
        if self.phase is not before:
            raise RuntimeError(f"round {self.id} is {self.phase.value}, not {before.value}")
        self.phase = phase
        if phase is Phase.AGGREGATED:  # what was stored last is on disk, too
            return [*self._safe(self.seats), Measure()]
        return [Write()] if phase is Phase.EVALUATED else []


def _discard(agent: str, key: WorkKey, reason: str) -> Tell:
    return Tell(agent, Discarded(key=key, reason=reason))
