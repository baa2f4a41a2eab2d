"""The numbers of a run's events, for whoever follows it."""

from flctl.core.events import RoundCommitted, RunFinished, UpdateRejected
from flctl.core.stream import AgentCame, Followed, Published


def rejected(seq, agent="pi-01"):
    return Published("ecg-1", UpdateRejected(at=1.0, round=1, agent=agent, reason="NaN"), seq)


def committed(seq):
    event = RoundCommitted(
        at=1.0, round=1, attempt=1, model="a" * 64, size=9, seconds=1.0, participants={}
    )
    return Published("ecg-1", event, seq)


def test_what_comes_again_is_not_new():
    """After a reconnection; what has no number is always new."""
    followed = Followed()
    told = [rejected(0), committed(1), rejected(2), Published("ecg-1", AgentCame(agent="pi-01"))]
    assert [followed.is_new(event) for event in told] == [True] * 4
    assert [followed.is_new(event) for event in told] == [False, False, False, True]
    assert (followed.after, followed.last) == (1, 2)


def test_what_a_power_cut_took_back_is_asked_for_again():
    """Only what is durable keeps its number: other events may have those that were not synced."""
    followed = Followed()
    for event in (committed(0), rejected(1), rejected(2)):
        assert followed.is_new(event)
    assert followed.after == 0
    again = [rejected(1), rejected(2, "pi-02"), Published("ecg-1", RunFinished(at=2.0), 3)]
    assert [followed.is_new(event) for event in again] == [False, True, True]
