"""Every order of events that a round can meet, drawn by hypothesis."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from flctl.core.randomness import sample
from flctl.core.round import (
    FAILURES,
    Accept,
    Action,
    Aggregate,
    Commit,
    Discard,
    Draw,
    Evaluate,
    Fail,
    Invite,
    Phase,
    Pool,
    Pull,
    Round,
    draw,
)
from flctl.settings import RunSettings

BASE = "b" * 64
NAMES = ["a", "b", "c", "d", "e", "f"]
STRANGER = "z"
DEADLINE_S = 60.0
PATIENCE_S = 20.0
anybody = st.sampled_from([*NAMES, STRANGER])


class Orders(RuleBasedStateMachine):
    """Feeds events in any order and checks what comes out against a few plain facts."""

    @initialize(
        invited=st.sets(st.sampled_from(NAMES), min_size=1),
        arrived=st.sets(anybody),
        need=st.integers(1, 7),
    )
    def begin(self, invited: set[str], arrived: set[str], need: int) -> None:
        self.now = 0.0
        self.invited, self.need = invited, need
        self.safe = arrived & invited
        self.out: set[str] = set()
        self.gone: set[str] = set()
        self.failures = dict.fromkeys(NAMES, 0)
        self.refused: set[str] = set()
        self.closes = self.fails = 0
        self.tired_of_waiting = False
        self.ends_at = DEADLINE_S
        self.short_since: float | None = None
        self.round = Round(
            7, BASE, invited, need, DEADLINE_S, arrived=arrived, patience_s=PATIENCE_S
        )
        actions = self.round.open(self.now)
        assert _invited(actions) == sorted(invited - self.safe)
        self.check(actions)

    @rule(agent=anybody)
    def offer(self, agent: str) -> None:
        before = self.round.phase
        actions = self.round.on_offer(agent, 7, BASE)
        if agent in self.safe:
            assert actions == [Accept(agent)]
        elif before is Phase.OPEN and agent in self.invited - self.out:
            assert actions in ([Pull(agent)], [])
            self.gone.discard(agent)
        elif before is Phase.FAILED:
            assert actions == []
        else:
            assert [type(a) for a in actions] == [Discard]
        self.check(actions)

    @rule(agent=anybody, round_id=st.sampled_from([6, 8]))
    def offer_for_another_round(self, agent: str, round_id: int) -> None:
        (action,) = self.round.on_offer(agent, round_id, BASE)
        assert isinstance(action, Discard)

    @rule(agent=anybody)
    def store(self, agent: str) -> None:
        wanted = self.round.phase in (Phase.OPEN, Phase.FAILED) and agent in self.invited
        actions = self.round.on_stored(agent)
        if wanted or agent in self.safe:
            assert actions[0] == Accept(agent)
            assert wanted or len(actions) == 1
            self.safe.add(agent)
            self.out.discard(agent)
            self.refused.discard(agent)
            self.gone.discard(agent)
        else:
            assert [type(a) for a in actions] == [Discard]
        self.check(actions)

    @rule(agent=anybody)
    def reject(self, agent: str) -> None:
        self.leave(agent)
        actions = self.round.on_rejected(agent, "NaN")
        assert actions[0] == Discard(agent, "NaN")
        self.check(actions)

    @rule(agent=anybody)
    def fail(self, agent: str) -> None:
        self.leave(agent)
        self.check(self.round.on_failed(agent, "out of memory"))

    @rule(agent=anybody)
    def refuse(self, agent: str) -> None:
        """The owner of the device does not allow it."""
        self.leave(agent)
        if agent in self.invited - self.safe:
            self.refused.add(agent)
        self.check(self.round.on_failed(agent, "batches of 1", refused=True))

    @rule(agent=anybody)
    def go(self, agent: str) -> None:
        self.gone |= {agent} & self.invited
        self.check(self.round.on_gone(agent))

    @rule(agent=anybody)
    def come_back(self, agent: str) -> None:
        self.gone.discard(agent)
        actions = self.round.on_back(agent)
        owes = agent in self.invited - self.safe - self.out and self.round.phase is Phase.OPEN
        assert actions == ([Invite(agent)] if owes else [])
        self.check(actions)

    @rule(seconds=st.floats(0.0, DEADLINE_S * 1.5))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        was_open = self.round.phase is Phase.OPEN
        actions = self.round.on_time(self.now)
        at_work = self.invited - self.safe - self.out - self.gone
        if was_open and len(self.safe | at_work) < self.need:
            self.short_since = self.now if self.short_since is None else self.short_since
        else:
            self.short_since = None
        since = self.now if self.short_since is None else self.short_since
        late = self.now >= self.ends_at or (not at_work and self.now - since >= PATIENCE_S)
        self.tired_of_waiting = late
        if not was_open or not late:
            assert actions == []
        else:
            assert [type(a) for a in actions] == [Aggregate if self.enough else Fail]
        self.check(actions)

    @rule()
    def give_up(self) -> None:
        """Others are here: those who are away are waited for no longer."""
        if not self.round.stuck:
            return
        assert not self.enough
        assert not (self.invited - self.safe - self.out - self.gone)
        self.tired_of_waiting = True
        self.check(self.round.give_up())

    @rule(others=st.none() | st.sets(st.sampled_from(NAMES)), need=st.integers(1, 7))
    def retry(self, others: set[str] | None, need: int) -> None:
        """Of the same agents, or drawn again from those that are here."""
        failed = self.round.phase is Phase.FAILED
        attempt = self.round.attempt
        drawn = None if others is None else Draw(tuple(others | self.safe), need, len(others), ())
        actions = self.round.retry(self.now, drawn)
        if not failed:
            assert actions == [] and self.round.attempt == attempt
            return
        if drawn is not None:
            self.invited, self.need = set(drawn.invited), need
            self.gone &= self.invited
            self.out &= self.invited
        assert self.round.attempt == attempt + 1
        self.out = self.left_out()
        self.short_since = None
        self.tired_of_waiting = False
        assert _invited(actions) == sorted(self.invited - self.safe - self.out)
        self.ends_at = self.now + DEADLINE_S
        self.closes = self.fails = 0
        self.check(actions)

    @precondition(lambda self: self.round.phase not in (Phase.OPEN, Phase.FAILED, Phase.COMMITTED))
    @rule()
    def advance(self) -> None:
        if self.round.phase is Phase.CLOSED:
            assert self.round.on_aggregated() == [Evaluate()]
        elif self.round.phase is Phase.AGGREGATED:
            assert self.round.on_evaluated() == [Commit()]
        else:
            self.round.on_committed()

    @invariant()
    def what_is_safe_stays_safe(self) -> None:
        assert self.round.arrived == self.safe
        assert self.round.missing == sorted(self.invited - self.safe)

    @invariant()
    def an_open_round_has_somebody_to_wait_for(self) -> None:
        """Else it would have been closed or failed at once."""
        refused = self.refused & self.invited
        assert self.round.hopeless == (len(self.invited - refused) < self.need)
        if self.round.phase is Phase.OPEN:
            assert len(self.invited - self.out) >= self.need, "the quorum is out of reach"
            here = self.invited - self.safe - self.out - self.gone
            assert self.round.waiting == here
            assert here or not self.enough

    @property
    def enough(self) -> bool:
        return len(self.safe) >= self.need

    def leave(self, agent: str) -> None:
        if agent in self.invited - self.safe:
            self.failures[agent] += agent not in self.out
            self.out.add(agent)

    def left_out(self) -> set[str]:
        """Who is not asked again: by its owner's word, or too often failed and not needed."""
        tired = {agent for agent in self.out if self.failures[agent] >= FAILURES}
        enough = len(self.invited - self.refused - tired) >= self.need
        return (self.refused & self.out) | (tired if enough else set())

    def check(self, actions: list[Action]) -> None:
        """What holds for the actions of any event."""
        for action in actions:
            match action:
                case Aggregate(participants, missing):
                    self.closes += 1
                    assert list(participants) == sorted(self.safe)
                    assert list(missing) == sorted(self.invited - self.safe)
                    assert len(participants) >= self.need
                case Fail(away=away):
                    self.fails += 1
                    assert not self.enough
                    assert set(away) <= self.gone - self.safe - self.out
                    assert not away or len(self.invited - self.out) >= self.need
                    late = self.now >= self.ends_at or self.tired_of_waiting
                    assert late or len(self.invited - self.out) < self.need
                case Invite(agent) | Pull(agent):
                    assert agent in self.invited - self.safe - self.out
        assert self.closes + self.fails <= 1, "an attempt ends once"
        ended = self.round.phase is not Phase.OPEN
        assert ended == bool(self.closes + self.fails)


def _invited(actions: list[Action]) -> list[str]:
    return [action.agent for action in actions if isinstance(action, Invite)]


Orders.TestCase.settings = settings(
    max_examples=100,
    stateful_step_count=30,
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
