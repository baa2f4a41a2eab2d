"""Every order of events that a round can meet, drawn by hypothesis: also those that no driver
makes. `tests/coordinator/test_every_order.py` drives the whole run in the same way."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from rounds import KEY, offer

from flctl.core.randomness import sample
from flctl.core.round import (
    FAILURES,
    LAST,
    UNDECIDED,
    Aggregate,
    AllOrQuorum,
    Back,
    Begin,
    BytesComplete,
    CannotDeliver,
    End,
    Event,
    Fail,
    Gone,
    Invite,
    Look,
    Looked,
    Phase,
    Pool,
    Pull,
    Reached,
    Retry,
    Round,
    Standing,
    Store,
    Stored,
    Sync,
    Synced,
    Tell,
    Tick,
    Unusable,
    draw,
)
from flctl.settings import RunSettings

NAMES = ["a", "b", "c", "d", "e", "f"]
STRANGER = "z"
DEADLINE_S = 60.0
anybody = st.sampled_from([*NAMES, STRANGER])
some = st.sets(st.sampled_from(NAMES))


class Orders(RuleBasedStateMachine):
    """Feeds events in any order and checks what comes out against a few plain facts."""

    @initialize(
        invited=st.sets(st.sampled_from(NAMES), min_size=1),
        stored=st.sets(anybody),
        here=some,
        need=st.integers(1, 7),
        grace_s=st.sampled_from([0.0, 20.0]),
        attempts=st.integers(1, 4),
    )
    def begin(self, invited, stored, here, need, grace_s, attempts) -> None:
        self.now = 0.0
        self.safe = stored & invited
        self.to_sync: set[str] = set()
        self.batch: tuple[str, ...] | None = None
        self.looks = self.closes = self.fails = self.ends = 0
        self.failures = dict.fromkeys([*NAMES, STRANGER], 0)
        run = RunSettings(task="ecg", quorum=need, wait_s=20.0, attempts=attempts)
        rule = AllOrQuorum(need, DEADLINE_S)
        self.round = Round(7, lambda _: KEY, run, rule, invited, stored)
        self.on(Begin(frozenset(here), grace_s))

    def on(self, event: Event) -> list:
        before = self.round.phase
        actions = self.round.on(event, self.now)
        for action in actions:
            self.check(action, before)
        assert self.closes + self.fails <= 1, "an attempt ends once"
        return actions

    def check(self, action, before: Phase) -> None:
        seats = self.round.seats
        match action:
            case Invite(agent):
                assert seats[agent].standing is Standing.ASKED and seats[agent].here
                assert self.round.phase in (Phase.OPEN, Phase.FAILED)
            case Pull(agent, offered):
                assert offered == offer(agent).offer and agent not in self.safe
            case Store(agents):
                assert self.batch is None, "one batch at a time"
                assert not set(agents) & self.safe
                self.batch = agents
            case Sync(agents):
                self.to_sync |= set(agents)
            case Tell(agent, message) if type(message).__name__ == "Accepted":
                assert seats[agent].standing is Standing.SAFE
            case Look():
                self.looks += 1
            case Fail(attempt):
                assert (attempt == self.round.attempt and before is Phase.OPEN) or attempt > 1
                self.fails += 1
                assert len(self.round.stored) < self.round.need
            case Retry(attempt, drawn):
                assert attempt == self.round.attempt and drawn.holds
                self.closes = self.fails = 0
            case Aggregate(participants, missing):
                self.closes += 1
                assert set(participants) == self.round.stored
                assert set(missing) == seats.keys() - self.round.stored
                assert len(participants) >= self.round.need
            case End():
                self.ends += 1

    @rule(agent=anybody, round_id=st.sampled_from([6, 7, 7, 7, 8]))
    def offer(self, agent: str, round_id: int) -> None:
        phase, seat = self.round.phase, self.round.seats.get(agent)
        before = seat.standing if seat else None
        kinds = [type(action) for action in self.on(offer(agent, round_id))]
        if round_id != 7:
            assert kinds == [Tell]
        elif before is Standing.SAFE:
            assert kinds == [Tell], "it hears again that its update is safe"
        elif before in (Standing.WHOLE, Standing.STORED, Standing.OFFERED) and phase is Phase.OPEN:
            assert kinds == []
        elif before is Standing.ASKED and phase is Phase.OPEN:
            assert kinds == [Pull]

    @rule(agent=anybody)
    def complete(self, agent: str) -> None:
        self.on(BytesComplete(agent))

    @precondition(lambda self: self.batch is not None)
    @rule(bad=some, synced=st.booleans())
    def store(self, bad: set[str], synced: bool) -> None:
        batch, self.batch = self.batch or (), None
        good = tuple(agent for agent in batch if agent not in bad)
        undecided = self.round.phase in UNDECIDED
        self.on(Stored(good, {agent: "NaN" for agent in batch if agent in bad}, synced))
        if undecided:
            self.safe |= {agent for agent in good if agent in self.round.seats}

    @precondition(lambda self: self.to_sync)
    @rule()
    def sync(self) -> None:
        agents, self.to_sync = tuple(sorted(self.to_sync)), set()
        self.on(Synced(agents))
        for agent in agents:
            assert self.round.seats[agent].standing is not Standing.STORED

    @rule(agent=anybody, kind=st.sampled_from([Unusable, CannotDeliver]), by_owner=st.booleans())
    def fail(self, agent: str, kind: type, by_owner: bool) -> None:
        event = Unusable(agent, "NaN") if kind is Unusable else CannotDeliver(agent, "x", by_owner)
        self.on(event)

    @rule(agent=anybody, here=st.booleans())
    def move(self, agent: str, here: bool) -> None:
        seat = self.round.seats.get(agent)
        delivered = seat is not None and seat.delivered
        actions = self.on(Back(agent) if here else Gone(agent))
        if delivered:
            assert Invite(agent) not in actions, "all bytes of its update are here"
            assert seat is not None and seat.delivered

    @rule(seconds=st.floats(0.0, DEADLINE_S * 1.5))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        storing = any(s.standing is Standing.WHOLE for s in self.round.seats.values())
        attempt = self.round.attempt
        self.on(Tick())
        if storing and self.round.attempt == attempt and self.closes + self.fails == 0:
            assert self.round.phase in UNDECIDED, "what is being stored was in time"

    @precondition(lambda self: self.looks)
    @rule(here=some, away=some, cordoned=some, starting=some)
    def see(self, here: set[str], away: set[str], cordoned: set[str], starting: set[str]) -> None:
        self.looks -= 1
        wanted = (here | away) - cordoned
        pool = Pool(
            frozenset(wanted),
            frozenset(here - cordoned),
            len(here | away),
            cordoned=frozenset(cordoned),
            starting=frozenset(starting),
        )
        self.on(Looked(pool))

    @precondition(lambda self: self.round.phase in LAST[:-1])
    @rule()
    def advance(self) -> None:
        self.on(Reached(LAST[LAST.index(self.round.phase) + 1]))

    @invariant()
    def what_counts_keeps_counting(self) -> None:
        assert self.round.stored == self.safe

    @invariant()
    def an_open_round_has_something_to_wait_for(self) -> None:
        """Else it would have been closed or failed at once."""
        round_ = self.round
        assert (round_.phase is Phase.OVER) == bool(self.ends)
        if round_.phase is Phase.OPEN:
            assert len(round_.seats.keys() - round_.out.keys()) >= round_.need
            assert round_.waiting or len(round_.stored) < round_.need
        if round_.phase is Phase.FAILED:
            assert self.looks, "it finds out who is here"

    @invariant()
    def what_is_whole_is_on_its_way_to_the_disk(self) -> None:
        whole = any(s.standing is Standing.WHOLE for s in self.round.seats.values())
        assert not whole or self.batch is not None or self.round.phase not in UNDECIDED
        assert FAILURES == 3


Orders.TestCase.settings = settings(
    max_examples=150,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestOrders = Orders.TestCase


@given(
    known=st.sets(st.sampled_from(NAMES), min_size=1),
    cordoned=st.sets(st.sampled_from(NAMES)),
    away=st.sets(st.sampled_from(NAMES)),
    returning=st.sets(st.sampled_from(NAMES)),
    accepted=st.sets(st.sampled_from(NAMES), max_size=3),
    quorum=st.none() | st.sampled_from([0.1, 0.5, 0.6, 0.8, 1.0, 2, 3]),
    fraction=st.sampled_from([0.2, 0.5, 1.0]),
    least=st.integers(1, 3),
)
def test_whoever_is_drawn(known, cordoned, away, returning, accepted, quorum, fraction, least):
    """Facts about every draw: of any fleet, whoever is away, cordoned or has delivered."""
    run = RunSettings(task="ecg", quorum=quorum, fraction=fraction)
    wanted = known - cordoned
    here = wanted - away
    back = returning & (wanted - here)
    drawn = draw(run, 3, Pool(*map(frozenset, (wanted, here)), len(known), frozenset(back)),
                 accepted, least)  # fmt: skip
    invited = set(drawn.invited)
    assert accepted <= invited <= wanted | accepted
    assert invited - accepted <= here | back, "who is away is not asked"
    assert len(invited - accepted) <= run.invited_of(len(wanted))
    assert set(drawn.absent) == wanted - here - invited
    assert drawn.able == len(accepted) + len(invited & here - accepted)
    assert drawn.need >= least
    if quorum is None and fraction == 1.0 and len(known) > 1:
        assert drawn.need >= 2, "one agent's update is not the model of a fleet"
        assert drawn.need <= max(2, len(wanted) - 1, least)
    if not away and not accepted:  # the same bytes as ever: local, virtual and replayed
        count = run.invited_of(len(wanted))
        assert list(drawn.invited) == sample(run.seed, 3, sorted(wanted), count)
