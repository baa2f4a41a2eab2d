"""The round by example; `test_round_orders.py` tries every order of events."""

import pytest

from flctl.core.round import (
    FAILURES,
    Accept,
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
    needed,
    pause_after,
)
from flctl.settings import RunSettings

BASE, OTHER = "b" * 64, "c" * 64


def opened(invited="abc", need=2, arrived="", deadline_s=60.0) -> Round:
    round_ = Round(7, BASE, invited, need, deadline_s, arrived=arrived)
    round_.open(0.0)
    return round_


def deliver(round_: Round, agents: str) -> list:
    actions = []
    for agent in agents:
        assert round_.on_offer(agent, 7, BASE) == [Pull(agent)]
        actions += round_.on_stored(agent)
    return actions


def kinds(actions: list) -> list[type]:
    return [type(action) for action in actions]


def test_a_round_begins_with_inviting_everybody_in_sorted_order():
    """The order of the invitations does not depend on that of a set."""
    round_ = Round(7, BASE, "cab", 2, 60.0)
    assert round_.open(0.0) == [Invite("a"), Invite("b"), Invite("c")]


def test_a_round_closes_when_the_last_update_is_safe():
    """Not when it is offered: an update counts only when it is on disk."""
    round_ = opened()
    deliver(round_, "cb")
    assert round_.on_offer("a", 7, BASE) == [Pull("a")]
    assert round_.phase is Phase.OPEN
    assert round_.on_stored("a") == [Accept("a"), Aggregate(("a", "b", "c"), ())]


def test_quorum_at_the_deadline_closes_the_round():
    """Two of three updates at the deadline are enough when the quorum is two."""
    round_ = opened()
    deliver(round_, "ca")
    assert round_.on_time(59.9) == []
    assert round_.on_time(60.0) == [Aggregate(("a", "c"), ("b",))]


def test_below_the_quorum_at_the_deadline_the_round_fails():
    """The error names how many came, how many were needed, and who is missing."""
    round_ = opened()
    deliver(round_, "b")
    (action,) = round_.on_time(60.0)
    assert isinstance(action, Fail)
    assert str(action.error) == "round 7: 1 of 2 required updates arrived (missing: a, c)"


def test_a_round_closes_at_once_when_only_the_gone_are_missing():
    """Nobody who is still here owes an update: there is no use in waiting for the deadline."""
    round_ = opened()
    deliver(round_, "ab")
    assert round_.on_gone("c") == [Aggregate(("a", "b"), ("c",))]


def test_below_the_quorum_the_gone_may_come_back_until_the_deadline():
    """Two of three Pis lose power and return: the round goes on with them."""
    round_ = opened()
    deliver(round_, "a")
    assert round_.on_gone("b") == round_.on_gone("c") == []
    assert round_.on_back("b") == [Invite("b")]
    assert kinds(deliver(round_, "b")) == [Accept, Aggregate]


def test_a_round_fails_at_once_when_the_quorum_is_out_of_reach():
    """Two of three have failed and two are needed: the third is not waited for."""
    round_ = opened()
    assert round_.on_failed("a", "out of memory") == []
    assert kinds(round_.on_failed("b", "no data")) == [Fail]
    assert round_.waiting == {"c"}


def test_a_quorum_larger_than_the_fleet_fails_at_the_opening():
    """It does not wait ten minutes for what cannot happen."""
    assert kinds(Round(7, BASE, "ab", 3, 600.0).open(0.0)) == [Invite, Invite, Fail]


def test_a_lost_acknowledgement_is_repeated_in_every_phase():
    """An agent that offers what was accepted is told so again, even when the round is over."""
    round_ = opened(need=1)
    for step in (None, round_.on_aggregated, round_.on_evaluated, round_.on_committed):
        if step is None:
            deliver(round_, "abc")
        else:
            step()
        assert round_.on_offer("a", 7, BASE) == [Accept("a")]
        assert round_.on_stored("a") == [Accept("a")]


@pytest.mark.parametrize(("round_id", "base"), [(6, BASE), (8, BASE), (7, OTHER)])
def test_an_update_for_another_round_or_model_is_discarded(round_id, base):
    """Even from an agent whose right update has arrived."""
    round_ = opened()
    deliver(round_, "a")
    for agent in "ab":
        (action,) = round_.on_offer(agent, round_id, base)
        assert isinstance(action, Discard) and f"round {round_id}" in action.reason


def test_who_was_not_invited_is_told_so():
    """An agent outside this round's draw that trained all the same."""
    assert opened().on_offer("z", 7, BASE) == [Discard("z", "not invited to round 7")]


def test_a_second_offer_while_the_first_is_fetched_changes_nothing():
    """Agents repeat their offers; one transfer is enough."""
    round_ = opened()
    assert round_.on_offer("a", 7, BASE) == [Pull("a")]
    assert round_.on_offer("a", 7, BASE) == []


def test_an_agent_that_comes_back_offers_and_is_fetched_again():
    """Its connection was lost in the middle of the transfer."""
    round_ = opened()
    round_.on_offer("a", 7, BASE)
    round_.on_gone("a")
    assert round_.on_back("a") == [Invite("a")]
    assert round_.on_offer("a", 7, BASE) == [Pull("a")]


def test_an_agent_that_reboots_behind_its_old_connection_is_fetched_again():
    """It was never seen to go; what it offered in its life before is gone with it."""
    round_ = opened()
    assert round_.on_offer("a", 7, BASE) == [Pull("a")]
    assert round_.on_back("a") == [Invite("a")]
    assert round_.on_offer("a", 7, BASE) == [Pull("a")]


def test_a_rejected_update_puts_its_agent_out_of_this_attempt_only():
    """NaN now may be a number after a restart of the worker: the next attempt asks again."""
    round_ = opened(need=3)
    deliver(round_, "ab")
    round_.on_offer("c", 7, BASE)
    rejected = round_.on_rejected("c", "tensor w holds NaN")
    assert kinds(rejected) == [Discard, Fail]
    assert round_.retry(100.0) == [Invite("c")]
    assert round_.attempt == 2 and round_.arrived == {"a", "b"}
    assert kinds(deliver(round_, "c")) == [Accept, Aggregate]


def test_a_failed_agent_is_discarded_with_the_reason_until_the_next_attempt():
    """It hears why, and does not offer for ever."""
    round_ = opened()
    round_.on_failed("a", "out of memory")
    assert round_.on_offer("a", 7, BASE) == [Discard("a", "out of memory")]


def test_between_two_attempts_nothing_is_thrown_away():
    """An offer waits for the next attempt; an update that became safe counts in it."""
    round_ = opened("ab")
    round_.on_offer("a", 7, BASE)
    round_.on_time(60.0)
    assert round_.phase is Phase.FAILED
    assert round_.on_offer("b", 7, BASE) == []
    assert round_.on_stored("a") == [Accept("a")]
    assert round_.retry(61.0) == [Invite("b")]
    assert kinds(deliver(round_, "b")) == [Accept, Aggregate]


def test_a_transfer_of_the_failed_attempt_is_begun_again():
    """What was offered before is asked for, offered and fetched in the new attempt."""
    round_ = opened()
    round_.on_offer("a", 7, BASE)
    round_.on_time(60.0)
    assert round_.retry(60.0) == [Invite("a"), Invite("b"), Invite("c")]
    assert round_.on_offer("a", 7, BASE) == [Pull("a")]


def test_a_new_attempt_has_a_deadline_of_its_own():
    """It begins when the attempt begins."""
    round_ = opened()
    round_.on_time(60.0)
    round_.retry(75.0)
    assert round_.time_left(75.0) == 60.0
    assert round_.on_time(134.9) == []
    assert kinds(round_.on_time(135.0)) == [Fail]


def test_only_a_failed_round_is_retried():
    """Neither an open nor a closed one."""
    round_ = opened()
    assert round_.retry(1.0) == []
    deliver(round_, "abc")
    assert round_.retry(1.0) == [] and round_.attempt == 1


def test_a_restarted_coordinator_asks_only_for_what_is_missing():
    """`arrived` holds what was accepted before; nobody trains twice."""
    round_ = Round(7, BASE, "abc", 2, 60.0, arrived={"c", "stranger"}, attempt=2)
    assert round_.open(1000.0) == [Invite("a"), Invite("b")]
    assert round_.arrived == {"c"} and round_.time_left(1000.0) == 60.0
    assert round_.on_offer("c", 7, BASE) == [Accept("c")]


def test_a_restarted_coordinator_that_has_everything_goes_on_at_once():
    """It was killed between the last update and the average."""
    actions = Round(7, BASE, "ab", 2, 60.0, arrived="ab").open(5.0)
    assert actions == [Aggregate(("a", "b"), ())]


def test_an_update_that_becomes_safe_after_the_close_is_not_wanted():
    """It was on its way when the deadline came."""
    round_ = opened()
    deliver(round_, "ab")
    round_.on_offer("c", 7, BASE)
    round_.on_time(60.0)
    (action,) = round_.on_stored("c")
    assert isinstance(action, Discard) and "was over" in action.reason
    assert "c" not in round_.arrived


def test_the_phases_follow_each_other():
    """A step that is out of turn is a fault of the program, and is not passed over."""
    round_ = opened()
    with pytest.raises(RuntimeError, match="round 7 is open, not closed"):
        round_.on_aggregated()
    deliver(round_, "abc")
    assert round_.on_aggregated() == [Evaluate()]
    assert round_.on_evaluated() == [Commit()]
    round_.on_committed()
    assert round_.phase is Phase.COMMITTED
    with pytest.raises(RuntimeError, match="committed"):
        round_.on_committed()


def fail_attempt(round_: Round, *agents: str) -> list:
    """These fail, which ends the attempt; what the next one begins with."""
    actions = [action for agent in agents for action in round_.on_failed(agent, "no memory")]
    assert kinds(actions) == [Fail]
    return round_.retry(1.0)


def test_who_fails_thrice_in_a_round_is_left_out():
    """Where the others are enough: it is not asked a fourth time."""
    round_ = opened("abc", need=2)
    assert FAILURES == 3
    for _ in range(2):
        assert fail_attempt(round_, "a", "b") == [Invite("a"), Invite("b"), Invite("c")]
    assert fail_attempt(round_, "a", "c") == [Invite("b"), Invite("c")]
    assert round_.waiting == {"b", "c"}
    assert kinds(deliver(round_, "bc")) == [Accept, Accept, Aggregate]


def test_who_is_needed_is_asked_again_however_often_it_has_failed():
    """The quorum does not let it be left out; it may just be starting again."""
    round_ = opened("abc", need=3)
    for _ in range(5):
        assert fail_attempt(round_, "a") == [Invite("a"), Invite("b"), Invite("c")]


def test_an_owner_who_does_not_allow_it_is_not_asked_twice():
    """Without it the quorum is met, or no attempt can meet it."""
    round_ = opened("abc", need=2)
    assert round_.on_failed("a", "batches of 1", refused=True) == []
    assert not round_.hopeless
    assert fail_attempt(round_, "b") == [Invite("b"), Invite("c")]
    assert kinds(round_.on_failed("c", "batches of 1", refused=True)) == [Fail]
    assert round_.hopeless


def test_the_pause_before_an_attempt_grows():
    """Three failures cost the agent milliseconds, and the run not all of its attempts at once."""
    assert [pause_after(n) for n in (1, 2, 3, 4, 1000)] == [2.0, 8.0, 32.0, 60.0, 60.0]


# Those who are away ----------------------------------------------------------------------


def short_of(away: str, delivered: str, need: int, patience_s: float = 20.0) -> Round:
    round_ = Round(7, BASE, "abc", need, 600.0, patience_s=patience_s)
    round_.open(0.0)
    for agent in away:
        round_.on_gone(agent)
    deliver(round_, delivered)
    return round_


def test_agents_that_are_away_are_waited_for_no_longer_than_the_patience():
    """When no other owes an update; not until the deadline."""
    round_ = short_of("c", "ab", need=3)
    assert round_.stuck and round_.on_time(10.0) == []
    assert round_.time_left(15.0) == 15.0
    assert round_.on_time(29.9) == []
    (fail,) = round_.on_time(30.0)
    assert isinstance(fail, Fail) and fail.away == ("c",)


def test_while_an_agent_is_at_work_those_that_are_away_have_time():
    """Its update is accepted first; the time since they went counts all the same."""
    round_ = short_of("c", "a", need=3)
    assert round_.short and not round_.stuck
    assert round_.on_time(0.0) == round_.on_time(100.0) == []
    deliver(round_, "b")
    assert kinds(round_.on_time(101.0)) == [Fail]


def test_who_comes_back_ends_that_wait():
    """The next one begins when it goes again."""
    round_ = short_of("c", "ab", need=3)
    round_.on_time(0.0)
    round_.on_back("c")
    assert round_.on_time(100.0) == []
    round_.on_gone("c")
    assert round_.on_time(101.0) == round_.on_time(120.9) == []
    assert kinds(round_.on_time(121.0)) == [Fail]


def test_slow_agents_are_not_away():
    """The deadline ends an attempt that could have met its quorum, and it counts as one."""
    round_ = opened(need=2)
    round_.on_gone("c")
    deliver(round_, "a")
    (fail,) = round_.on_time(60.0)
    assert fail.away == ()


def test_a_new_attempt_asks_those_who_were_drawn_again():
    """With the quorum of the draw; what was accepted stays."""
    round_ = short_of("c", "ab", need=3)
    assert kinds(round_.give_up()) == [Fail]
    drawn = Draw(invited=("a", "b", "d"), need=3, able=3, absent=("c",))
    assert round_.retry(50.0, drawn) == [Invite("d")]
    assert round_.attempt == 2 and round_.arrived == {"a", "b"}
    assert deliver(round_, "d")[1:] == [Aggregate(("a", "b", "d"), ())]
    assert round_.on_offer("c", 7, BASE)[0] == Discard("c", "for round 7, which is over")


def test_a_new_attempt_of_which_all_is_accepted_closes_at_once():
    """The agent that was waited for is cordoned."""
    round_ = short_of("c", "ab", need=3)
    round_.give_up()
    drawn = Draw(invited=("a", "b"), need=2, able=2, absent=())
    assert round_.retry(50.0, drawn) == [Aggregate(("a", "b"), ())]


# The draw --------------------------------------------------------------------------------


def pool(wanted: str, here: str, known: int | None = None, returning: str = "") -> Pool:
    known = len(wanted) if known is None else known
    return Pool(frozenset(wanted), frozenset(here), known, frozenset(returning))


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
    drawn = draw(RunSettings(task="ecg", quorum=quorum), 1, pool(wanted, here))
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
    drawn = draw(settings, 1, pool("abcdef", "abc", returning="def"))
    assert drawn.invited == ("a", "b", "c")
    drawn = draw(settings, 1, pool("abcdef", "ab", returning="f"))
    assert (drawn.invited, drawn.able) == (("a", "b", "f"), 2)
