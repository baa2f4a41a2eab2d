"""The round by example; `test_round_orders.py` tries every order of events."""

from functools import partial

import pytest
from msgspec.structs import replace
from rounds import BASE, KEY, OTHER, discarded, offer, pool, told

from flctl.core.round import (
    FAILURES,
    STARTING_S,
    Aggregate,
    AllOrQuorum,
    Back,
    Begin,
    BytesComplete,
    CannotDeliver,
    Closing,
    End,
    Fail,
    Gone,
    Invite,
    Look,
    Looked,
    Measure,
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
    Tick,
    Unusable,
    Write,
    backoff_after,
    draw,
    needed,
)
from flctl.settings import RunSettings
from flctl.wire.messages import Cancel

SETTINGS = RunSettings(task="ecg", quorum=2, wait_s=20.0, attempts=100)


def made(invited="abc", need=2, deadline_s=60.0, settings=SETTINGS, **options) -> Round:
    return Round(7, lambda _: KEY, settings, AllOrQuorum(need, deadline_s), invited, **options)


def opened(invited="abc", need=2, here="abcdef", **options) -> Round:
    round_ = made(invited, need, **options)
    round_.on(Begin(frozenset(here)), 0.0)
    return round_


def deliver(round_: Round, agents: str, now: float = 1.0) -> list:
    """Each is offered, fetched, and safe; what followed from the last steps."""
    actions = []
    for agent in agents:
        assert round_.on(offer(agent), now) == [Pull(agent, offer(agent).offer)]
        (store,) = round_.on(BytesComplete(agent), now)
        assert isinstance(store, Store) and store.agents == (agent,)
        actions += round_.on(Stored((agent,)), now)
    return actions


def kinds(actions: list) -> list[type]:
    return [type(action) for action in actions]


def accepted(actions: list) -> list[str]:
    return told(actions, "Accepted")


def test_a_round_begins_with_inviting_those_that_are_here_in_sorted_order():
    """The order of the invitations does not depend on that of a set."""
    begin = Begin(frozenset("abd"))
    assert made("cab", need=3).on(begin, 0.0) == [Invite("a"), Invite("b")]


def test_a_round_closes_when_the_last_update_counts():
    """Not when it is offered, nor when its bytes are here."""
    round_ = opened()
    deliver(round_, "cb")
    assert round_.on(offer("a"), 1.0) == [Pull("a", offer("a").offer)]
    assert round_.on(BytesComplete("a"), 1.0) == [Store(("a",))]
    assert round_.phase is Phase.OPEN
    accept, aggregate = round_.on(Stored(("a",)), 1.0)
    assert accepted([accept]) == ["a"] and aggregate == Aggregate(("a", "b", "c"), ())


def test_quorum_at_the_deadline_closes_the_round():
    """Two of three updates at the deadline are enough when the quorum is two."""
    round_ = opened()
    deliver(round_, "ca")
    assert round_.on(Tick(), 59.9) == []
    cancel, aggregate = round_.on(Tick(), 60.0)
    assert (cancel.agent, cancel.message) == ("b", Cancel(run=KEY.run))
    assert aggregate == Aggregate(("a", "c"), ("b",))


def test_below_the_quorum_at_the_deadline_the_round_fails():
    """The error names how many came, how many were needed, and who is missing."""
    round_ = opened()
    deliver(round_, "b")
    assert round_.on(Tick(), 60.0) == [
        Fail(1, "round 7: 1 of 2 required updates arrived (missing: a, c)"),
        Look(),
    ]


def test_what_is_being_stored_was_in_time():
    """The deadline is asked when the disk is done; whether its agent is still here is not."""
    round_ = opened()
    deliver(round_, "a")
    round_.on(offer("b"), 59.0)
    round_.on(BytesComplete("b"), 59.0)
    assert round_.on(Gone("b"), 59.5) == []
    assert round_.on(Tick(), 70.0) == []
    assert accepted(round_.on(Stored(("b",)), 71.0)) == ["b"]
    assert kinds(round_.on(Tick(), 71.1))[-1] is Aggregate


def test_all_that_become_whole_while_the_disk_is_busy_are_one_batch():
    """One sync for all of them; that of the last ones goes on while they are averaged."""
    round_ = opened("abcd", need=3)
    for agent in "abcd":
        round_.on(offer(agent), 1.0)
    assert round_.on(BytesComplete("a"), 1.0) == [Store(("a",))]
    assert [round_.on(BytesComplete(agent), 1.0) for agent in "dbc"] == [[], [], []]
    accept, store = round_.on(Stored(("a",)), 2.0)
    assert accepted([accept]) == ["a"] and store == Store(("b", "c", "d"))
    assert kinds(round_.on(Stored(("b", "c", "d"), synced=False), 3.0)) == [Aggregate]
    assert round_.on(offer("b"), 3.5) == [], "it is not safe yet"
    *tells, measure = round_.on(Reached(Phase.AGGREGATED), 4.0)
    assert accepted(tells) == ["b", "c", "d"] and measure == Measure()


def test_an_update_is_accepted_only_when_it_is_safe():
    """Where its sync goes on and nothing is averaged meanwhile, it is waited for."""
    round_ = opened("ab")
    deliver(round_, "a")
    round_.on(offer("b"), 1.0)
    assert round_.on(BytesComplete("b"), 1.0) == [Store(("b",))]
    round_ = opened("abc", need=3)
    for agent in "ab":
        round_.on(offer(agent), 1.0)
        round_.on(BytesComplete(agent), 1.0)
    assert round_.on(Stored(("a",), synced=False), 2.0) == [
        Sync(("a",)),
        Store(("b",)),
    ]
    assert accepted(round_.on(Stored(("b",)), 2.5)) == ["b"]
    assert accepted(round_.on(Synced(("a",)), 3.0)) == ["a"]
    assert round_.on(Synced(("a",)), 3.0) == [], "nor is it told twice"


def test_a_round_closes_at_once_when_only_the_gone_are_missing():
    """All who are still here have delivered: there is no use in waiting for the deadline."""
    round_ = opened()
    deliver(round_, "ab")
    assert round_.on(Gone("c"), 2.0)[-1] == Aggregate(("a", "b"), ("c",))


def test_below_the_quorum_the_gone_may_come_back_until_the_deadline():
    """Two of three Pis lose power and return: the round goes on with them."""
    round_ = opened()
    deliver(round_, "a")
    assert round_.on(Gone("b"), 2.0) == round_.on(Gone("c"), 2.0) == []
    assert round_.on(Back("b"), 3.0) == [Invite("b")]
    assert kinds(deliver(round_, "b"))[-1] is Aggregate


def test_a_round_fails_at_once_when_the_quorum_is_out_of_reach():
    """Two of three have failed and two are needed: the third is not waited for."""
    round_ = opened()
    assert round_.on(CannotDeliver("a", "out of memory"), 1.0) == []
    assert kinds(round_.on(CannotDeliver("b", "no data"), 1.0)) == [Fail, Look]
    assert round_.waiting == {"c"}


def test_a_quorum_larger_than_the_fleet_fails_at_the_opening():
    """It does not wait ten minutes for what cannot happen."""
    begun = made("ab", need=3, deadline_s=600.0).on(Begin(frozenset("ab")), 0.0)
    assert kinds(begun) == [Invite, Invite, Fail, Look]


def test_a_lost_acknowledgement_is_repeated_in_every_phase():
    """An agent that offers what was accepted hears so again, even when the round is over."""
    round_ = opened(need=1)
    for step in (
        None,
        Reached(Phase.AGGREGATED),
        Reached(Phase.EVALUATED),
        Reached(Phase.COMMITTED),
    ):
        if step is None:
            deliver(round_, "abc")
        else:
            round_.on(step, 2.0)
        assert accepted(round_.on(offer("a"), 2.0)) == ["a"]


@pytest.mark.parametrize(("round_id", "base"), [(6, BASE), (8, BASE), (7, OTHER)])
def test_an_update_for_another_round_or_model_is_discarded(round_id, base):
    """Even from an agent whose right update has arrived."""
    round_ = opened()
    deliver(round_, "a")
    for agent in "ab":
        (reason,) = discarded(round_.on(offer(agent, round_id, base), 2.0))
        assert f"round {round_id}" in reason


def test_an_agent_outside_the_draw_that_trained_all_the_same_hears_so():
    assert discarded(opened().on(offer("z"), 1.0)) == ["not invited to round 7"]


def test_a_second_offer_while_the_first_is_fetched_changes_nothing():
    """Agents repeat their offers; one transfer is enough."""
    round_ = opened()
    assert kinds(round_.on(offer("a"), 1.0)) == [Pull]
    assert round_.on(offer("a"), 1.0) == []


@pytest.mark.parametrize("seen_to_go", [True, False])
def test_an_agent_that_comes_back_offers_and_is_fetched_again(seen_to_go):
    """Also one that reboots behind its old connection: its first offer is gone with it."""
    round_ = opened()
    round_.on(offer("a"), 1.0)
    if seen_to_go:
        round_.on(Gone("a"), 1.0)
    assert round_.on(Back("a"), 1.0) == [Invite("a")]
    assert kinds(round_.on(offer("a"), 1.0)) == [Pull]


def test_who_comes_back_while_its_update_is_stored_is_not_asked_for_another():
    """All bytes of it are here."""
    round_ = opened()
    round_.on(offer("a"), 1.0)
    round_.on(BytesComplete("a"), 1.0)
    assert round_.on(Gone("a"), 1.0) == round_.on(Back("a"), 1.0) == []
    assert accepted(round_.on(Stored(("a",)), 1.0)) == ["a"]


def test_an_unusable_update_puts_its_agent_out_of_this_attempt_only():
    """NaN now may be a number after a restart of the worker: the next attempt asks again."""
    round_ = opened(need=3, settings=replace(SETTINGS, quorum=3))
    deliver(round_, "ab")
    round_.on(offer("c"), 1.0)
    actions = round_.on(Unusable("c", "tensor w holds NaN"), 1.0)
    assert discarded(actions[:1]) == ["tensor w holds NaN"]
    assert kinds(actions[1:]) == [Fail, Look]
    assert retried(round_) == [Invite("c")]
    assert round_.attempt == 2 and round_.stored == {"a", "b"}
    assert kinds(deliver(round_, "c"))[-1] is Aggregate


def test_a_failed_agent_is_discarded_with_the_reason_until_the_next_attempt():
    """It hears why, and does not offer for ever."""
    round_ = opened()
    round_.on(CannotDeliver("a", "out of memory"), 1.0)
    assert discarded(round_.on(offer("a"), 1.0)) == ["out of memory"]


def test_between_two_attempts_nothing_is_thrown_away():
    """An offer waits for the next attempt; an update that became safe counts in it."""
    round_ = opened("ab")
    round_.on(offer("a"), 1.0)
    round_.on(Tick(), 60.0)
    assert round_.phase is Phase.FAILED
    assert round_.on(offer("b"), 60.0) == []
    round_.on(BytesComplete("a"), 60.0)
    assert accepted(round_.on(Stored(("a",)), 60.0)) == ["a"]
    assert retried(round_, "ab") == [Invite("b")]
    assert kinds(deliver(round_, "b"))[-1] is Aggregate


def test_a_transfer_of_the_failed_attempt_is_begun_again():
    """What was offered before is asked for, offered and fetched in the new attempt."""
    round_ = opened()
    round_.on(offer("a"), 1.0)
    round_.on(Tick(), 60.0)
    assert retried(round_) == [Invite("a"), Invite("b"), Invite("c")]
    assert kinds(round_.on(offer("a"), 61.0)) == [Pull]


def test_a_new_attempt_comes_after_a_pause_and_has_a_deadline_of_its_own():
    """It begins when the attempt begins."""
    round_ = opened()
    round_.on(Tick(), 60.0)
    assert round_.on(Looked(pool("abc")), 60.0) == []
    assert round_.phase is Phase.BACKOFF and round_.time_left(60.5) == 1.5
    assert round_.on(Tick(), 61.9) == []
    assert round_.on(Looked(pool("abc")), 61.9) == [], "of a look before"
    assert round_.on(Tick(), 75.0) == [Look()]
    assert kinds(round_.on(Looked(pool("abc")), 75.0)) == [Retry, Invite, Invite, Invite]
    assert round_.time_left(75.0) == 60.0
    assert round_.on(Tick(), 134.9) == []
    assert kinds(round_.on(Tick(), 135.0)) == [Fail, Look]


def test_a_round_that_keeps_failing_is_over_after_its_attempts():
    """With the words of the last one."""
    round_ = opened(settings=replace(SETTINGS, attempts=2))
    for now in (60.0, 170.0):
        round_.on(Tick(), now)
        actions = round_.on(Looked(pool("abc")), now)
        if now == 60.0:
            assert actions == [] and retried(round_)
    (end,) = actions
    assert isinstance(end, End) and not end.awaits and end.reason.endswith(", after 2 attempts")
    assert round_.phase is Phase.OVER


def test_only_a_failed_round_is_retried():
    """Neither an open nor a closed one, whoever is here."""
    round_ = opened()
    assert round_.on(Looked(pool("abcdef")), 1.0) == []
    deliver(round_, "abc")
    assert round_.on(Looked(pool("abcdef")), 1.0) == [] and round_.attempt == 1


def test_a_restarted_coordinator_asks_only_for_what_is_missing():
    """`stored` holds what was accepted before; no agent trains twice."""
    round_ = made("abc", stored={"c", "stranger"}, attempt=2)
    assert round_.on(Begin(frozenset("ab")), 1000.0) == [Invite("a"), Invite("b")]
    assert round_.stored == {"c"} and round_.time_left(1000.0) == 60.0
    assert accepted(round_.on(offer("c"), 1000.0)) == ["c"]


def test_a_restarted_coordinator_that_has_everything_goes_on_at_once():
    """It was killed between the last update and the average."""
    actions = made("ab", stored="ab").on(Begin(frozenset()), 5.0)
    assert actions == [Aggregate(("a", "b"), ())]


def test_after_a_restart_agents_have_time_to_come_back():
    """They count as here until the grace is over; one that is seen to go does not."""
    round_ = made("abcd", need=2, stored="ab")
    assert round_.on(Begin(frozenset("c"), grace_s=20.0), 100.0) == [Invite("c")]
    assert round_.on(Gone("c"), 101.0) == []
    assert round_.on(Tick(), 119.9) == [] and round_.waiting == {"d"}
    assert round_.on(Tick(), 120.0)[-1] == Aggregate(("a", "b"), ("c", "d"))


def test_who_is_back_within_the_grace_stays_when_it_is_over():
    round_ = made("abc", need=2, stored="ab")
    round_.on(Begin(frozenset(), grace_s=20.0), 100.0)
    assert round_.on(Back("c"), 110.0) == [Invite("c")]
    assert round_.on(Tick(), 121.0) == [] and round_.waiting == {"c"}


def test_an_update_that_becomes_whole_after_the_close_is_not_wanted():
    """It was on its way when the deadline came."""
    round_ = opened()
    deliver(round_, "ab")
    round_.on(offer("c"), 1.0)
    round_.on(Tick(), 60.0)
    for late in (BytesComplete("c"), Stored(("c",))):
        (reason,) = discarded(round_.on(late, 60.0))
        assert "was over" in reason
    assert "c" not in round_.stored


def test_the_phases_follow_each_other():
    """A step that is out of turn is a fault of the program, and is not passed over."""
    round_ = opened()
    with pytest.raises(RuntimeError, match="round 7 is open, not closed"):
        round_.on(Reached(Phase.AGGREGATED), 1.0)
    deliver(round_, "abc")
    assert round_.on(Reached(Phase.AGGREGATED), 1.0) == [Measure()]
    assert round_.on(Reached(Phase.EVALUATED), 1.0) == [Write()]
    assert round_.on(Reached(Phase.COMMITTED), 1.0) == []
    assert round_.phase is Phase.COMMITTED
    with pytest.raises(RuntimeError, match="committed"):
        round_.on(Reached(Phase.COMMITTED), 1.0)


def retried(round_: Round, here: str = "abc", now: float = 100.0) -> list:
    """The attempt has failed: whom the next one asks."""
    later = now
    actions = round_.on(Looked(pool(here)), later)
    if round_.phase is Phase.BACKOFF:
        later += round_.time_left(later)
        assert round_.on(Tick(), later) == [Look()]
        actions = round_.on(Looked(pool(here)), later)
    assert isinstance(actions[0], Retry)
    return actions[1:]


def fail_attempt(round_: Round, *agents: str) -> list:
    """These fail, which ends the attempt; whom the next one asks."""
    actions = [a for agent in agents for a in round_.on(CannotDeliver(agent, "no memory"), 1.0)]
    assert kinds(actions) == [Fail, Look]
    return retried(round_)


def test_who_fails_thrice_in_a_round_is_left_out():
    """Where the others are enough: it is not asked a fourth time."""
    round_ = opened("abc", need=2)
    assert FAILURES == 3
    for _ in range(2):
        assert fail_attempt(round_, "a", "b") == [Invite("a"), Invite("b"), Invite("c")]
    assert fail_attempt(round_, "a", "c") == [Invite("b"), Invite("c")]
    assert round_.waiting == {"b", "c"}
    assert kinds(deliver(round_, "bc"))[-1] is Aggregate


def test_who_is_needed_is_asked_again_however_often_it_has_failed():
    """The quorum does not let it be left out; it may just be starting again."""
    round_ = opened("abc", need=3, settings=replace(SETTINGS, quorum=3))
    for _ in range(5):
        assert fail_attempt(round_, "a") == [Invite("a"), Invite("b"), Invite("c")]


def test_an_owner_who_does_not_allow_it_ends_a_round_that_cannot_do_without():
    """Without it the quorum is met, or no attempt can meet it."""
    round_ = opened("abc", need=2)
    refuse = partial(CannotDeliver, reason="batches of 1", by_owner=True)
    assert round_.on(refuse("a"), 1.0) == []
    assert kinds(round_.on(refuse("c"), 1.0)) == [Fail, Look]
    (end,) = round_.on(Looked(pool("b", wanted="abc")), 1.0)
    assert isinstance(end, End) and not end.awaits and end.reason.endswith(", after 1 attempt")


def test_the_pause_before_an_attempt_grows():
    """Three failures cost the agent milliseconds, and the run not all of its attempts at once."""
    assert [backoff_after(n) for n in (1, 2, 3, 4, 1000)] == [2.0, 8.0, 32.0, 60.0, 60.0]


# The closing rule ------------------------------------------------------------------------


def test_a_rule_that_closes_with_three_updates_and_no_deadline():
    """Another rule over the same seats: the machine does not change for it."""
    round_ = Round(7, lambda _: KEY, SETTINGS, Closing(need=3), "abcdef")
    round_.on(Begin(frozenset("abcdef")), 0.0)
    deliver(round_, "af")
    assert round_.on(Tick(), 1e9) == [], "it has no deadline"
    round_.on(Gone("b"), 1e9)
    round_.on(CannotDeliver("c", "out of memory"), 1e9)
    for agent in "de":
        round_.on(offer(agent), 1e9)
    assert round_.on(BytesComplete("e"), 1e9) == [Store(("e",))]
    round_.on(BytesComplete("d"), 1e9)
    actions = round_.on(Stored(("e",), synced=False), 1e9)
    assert [a.agent for a in actions[:-1]] == ["b", "c", "d"], "these are told that it is over"
    assert actions[-1] == Aggregate(("a", "e", "f"), ("b", "c", "d"))
    assert round_.seats["e"].standing is Standing.STORED
    assert accepted(round_.on(Reached(Phase.AGGREGATED), 1e9)) == ["e"]


# Those who are away ----------------------------------------------------------------------


def short_of(away: str, delivered: str, need: int) -> Round:
    round_ = opened(need=need, deadline_s=600.0, settings=replace(SETTINGS, quorum=need))
    for agent in away:
        round_.on(Gone(agent), 0.0)
    deliver(round_, delivered, now=0.0)
    return round_


def ticked(round_: Round, now: float, seen: Pool | None = None) -> list:
    """What a tick leads to; the others are not here."""
    actions = round_.on(Tick(), now)
    return (
        round_.on(Looked(seen or pool("ab", wanted="abc")), now) if actions == [Look()] else actions
    )


def test_agents_that_are_away_are_waited_for_no_longer_than_the_patience():
    """When no other owes an update; not until the deadline."""
    round_ = short_of("c", "ab", need=3)
    assert round_.stuck and ticked(round_, 10.0) == []
    assert round_.time_left(15.0) == 15.0
    assert ticked(round_, 29.9) == []
    assert kinds(ticked(round_, 30.0)) == [Fail, Look]
    (end,) = round_.on(Looked(pool("ab", wanted="abc")), 30.0)
    assert end == End("2 of 3 required agents ready", frozenset("c"), awaits=True)


@pytest.mark.parametrize("why", ["starting", "cordoned"])
def test_who_is_starting_or_cordoned_is_waited_for_longer(why):
    round_ = short_of("c", "ab", need=3)
    seen = replace(pool("ab", wanted="abc"), **{why: frozenset("c")})
    assert ticked(round_, 0.0, seen) == ticked(round_, STARTING_S, seen) == []
    assert round_.time_left(STARTING_S) >= 20.0


def test_while_an_agent_is_at_work_those_that_are_away_have_time():
    """Its update is accepted first; the time since they went counts all the same."""
    round_ = short_of("c", "a", need=3)
    assert round_.short and not round_.stuck
    assert ticked(round_, 0.0) == ticked(round_, 100.0) == []
    deliver(round_, "b", now=100.0)
    assert kinds(ticked(round_, 101.0)) == [Fail, Look]


def test_who_comes_back_ends_that_wait():
    """The next one begins when it goes again."""
    round_ = short_of("c", "ab", need=3)
    ticked(round_, 0.0)
    round_.on(Back("c"), 1.0)
    assert ticked(round_, 100.0) == []
    round_.on(Gone("c"), 100.0)
    assert ticked(round_, 101.0) == ticked(round_, 120.9) == []
    assert kinds(ticked(round_, 121.0)) == [Fail, Look]


def test_slow_agents_are_not_away():
    """The deadline ends an attempt that could have met its quorum, and it counts as one."""
    round_ = opened(need=2)
    round_.on(Gone("c"), 0.0)
    deliver(round_, "a")
    assert kinds(round_.on(Tick(), 60.0)) == [Fail, Look]
    assert round_.on(Looked(pool("abd")), 60.0) == [], (
        "others are here; there is a pause all the same"
    )
    assert round_.phase is Phase.BACKOFF


def test_a_new_attempt_asks_those_who_were_drawn_again():
    """At once when another is here; what was accepted stays."""
    round_ = short_of("c", "ab", need=3)
    others = pool("abd", wanted="abcd")
    assert kinds(ticked(round_, 1.0, others)) == [Fail, Look]
    retry, invite = round_.on(Looked(others), 1.0)
    assert (retry.attempt, retry.drawn.invited) == (2, ("a", "b", "d"))
    assert retry.drawn.absent == ("c",) and invite == Invite("d")
    assert round_.stored == {"a", "b"}
    assert deliver(round_, "d")[1:] == [Aggregate(("a", "b", "d"), ())]
    assert discarded(round_.on(offer("c"), 2.0)) == ["for round 7, which is over"]


def test_a_new_attempt_of_which_all_is_accepted_closes_at_once():
    """The agent that was waited for is cordoned."""
    round_ = short_of("c", "ab", need=3)
    round_ = opened(need=3, deadline_s=600.0)
    round_.on(Gone("c"), 0.0)
    deliver(round_, "ab", now=0.0)
    fewer = pool("ab", known=3)
    assert kinds(ticked(round_, 1.0, fewer)) == [Fail, Look]
    assert kinds(round_.on(Looked(fewer), 1.0)) == [Retry, Aggregate]


# The draw --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quorum", "wanted", "here", "need", "holds"),
    [
        (None, "abc", "ab", 2, True),
        (None, "abc", "a", 2, False),
        (None, "a", "a", 1, True),
        (0.6, "abc", "ab", 2, True),
        (0.8, "abc", "ab", 3, False),
        (1.0, "abc", "ab", 3, False),
        (0.3, "abc", "a", 1, True),
        (2, "abcdef", "ab", 2, True),
    ],
)
def test_the_quorum_counts_all_that_are_wanted(quorum, wanted, here, need, holds):
    drawn = draw(RunSettings(task="ecg", quorum=quorum), 1, pool(here, wanted))
    assert (drawn.need, drawn.holds) == (need, holds)
    assert drawn.invited == tuple(here)
    assert drawn.absent == tuple(sorted(set(wanted) - set(here)))


@pytest.mark.parametrize(("quorum", "need"), [(None, 2), (1.0, 2), (0.5, 1)])
def test_a_cordon_does_not_make_one_agent_enough(quorum, need):
    """Of two, one is being upgraded. Where one of two is enough anyway, it still is."""
    assert needed(RunSettings(task="ecg", quorum=quorum), wanted=1, known=2) == need


def test_those_that_are_away_are_drawn_only_where_too_few_are_here():
    """And only if they may return: those that are named for the run."""
    settings = RunSettings(task="ecg", fraction=0.5)
    drawn = draw(settings, 1, pool("abc", "abcdef", returning="def"))
    assert drawn.invited == ("a", "b", "c")
    drawn = draw(settings, 1, pool("ab", "abcdef", returning="f"))
    assert (drawn.invited, drawn.able) == (("a", "b", "f"), 2)
