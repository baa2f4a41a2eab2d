"""What a run does when the owner of a device does not allow what it asks for."""

import logging
from collections.abc import Callable

import pytest
from memory_fleet import MemoryFleet

from flctl.coordinator.store.folder import RunFolder
from flctl.errors import UsageError
from flctl.wire.messages import Begun, Limits
from flctl.worker.jobs import JobFailed

SINGLE = {"batch_size": 1, "federate_after_n_batches": 1, "optimizer": "SGD", "rounds": 1}


def test_single_examples_are_refused_and_the_run_says_by_whom_and_why(
    make_fleet: Callable[..., MemoryFleet], caplog: pytest.LogCaptureFixture
):
    """One agent, one batch of one: the run is over after one question, with one line."""
    fleet = make_fleet(1)
    with caplog.at_level(logging.INFO):
        fleet.start_run(**SINGLE)
        history = fleet.finish(within_s=5.0)
    assert history.state == "paused" and history.round == 0
    why = "pi-01: its owner does not allow it: batches of 1 are below --min-batch-size 8"
    assert why in history.reason and "after 1 attempt" in history.reason
    assert len(fleet.named("agent-failed")) == len(fleet.named("attempt")) == 1
    assert fleet.agents["pi-01"].trained == []
    shown = fleet.status("pi-01")
    assert "batches of 1 are below --min-batch-size 8" in shown["note"]
    assert shown["limits"]["min_batch_size"] == 8
    own = [
        r.message for r in caplog.records if r.name == "flctl.agent.work" and "owner" in r.message
    ]
    assert len(own) == 1

    fleet.start_run(**{**SINGLE, "batch_size": 16})
    assert fleet.finish().state == "finished"


def test_the_others_go_on_and_it_is_not_asked_again(make_fleet: Callable[..., MemoryFleet]):
    """Where the quorum lets them; who refuses has been asked once."""
    fleet = make_fleet(2)
    strict = fleet.add("pi-03", limits=Limits(min_batch_size=64))
    fleet.start_run(rounds=4, quorum=0.6)
    history = fleet.finish()
    assert (history.state, history.round) == ("finished", 4)
    assert [sorted(r.participants) for r in history.rounds] == [["pi-01", "pi-02"]] * 4
    assert len(fleet.named("agent-failed")) == 1 and strict.trained == []
    assert [list(e["invited"]) for e in fleet.named("opened")][1:] == [["pi-01", "pi-02"]] * 3


def test_an_agent_that_was_named_is_not_asked_again_either(make_fleet: Callable[..., MemoryFleet]):
    """Nor is it waited for."""
    fleet = make_fleet(2)
    fleet.add("pi-03", limits=Limits(min_batch_size=64))
    fleet.start_run(rounds=4, quorum=0.6, agents=["pi-01", "pi-02", "pi-03"])
    assert fleet.finish().state == "finished"
    assert len(fleet.named("agent-failed")) == 1


def test_an_owner_who_has_changed_his_mind_is_asked_again(make_fleet: Callable[..., MemoryFleet]):
    """The agent was started again with other limits: another session."""
    fleet = make_fleet(2)
    strict = fleet.add("pi-03", limits=Limits(min_batch_size=64))
    fleet.start_run(rounds=8, quorum=0.6)
    fleet.until(lambda: len(fleet.named("round")) == 2)
    strict.kill()
    strict.limits = Limits()
    strict.start()
    assert fleet.finish().state == "finished"
    assert strict.trained


def test_a_limit_of_rounds_is_waited_out(make_fleet: Callable[..., MemoryFleet]):
    """The agent is asked again when it has said that it may be."""
    fleet = make_fleet(1)
    fast = fleet.add("pi-02", limits=Limits(max_rounds_per_hour=2))
    for agent in fleet.agents.values():
        agent.ticks = 4000  # 400 s each
    fleet.start_run(rounds=14, quorum=0.5)
    history = fleet.finish(within_s=9000.0)
    both = [r.round for r in history.rounds if len(r.participants) == 2]
    assert both[:2] == [1, 2] and len(both) > 2 and 3 not in both
    assert len(fast.trained) == len(both)
    assert len(fleet.named("agent-failed")) <= 2


def failing(fleet: MemoryFleet, name: str, until: float) -> None:
    """Its worker fails at once, up to that time."""
    agent = fleet.agents[name]
    before = agent.do

    def do(job, model):
        if fleet.now < until and type(job).__name__ == "TrainJob":
            return JobFailed(kind="error", message="the camera is gone"), None
        return before(job, model)

    agent.do = do


def test_three_failures_in_milliseconds_do_not_pause_a_run(make_fleet: Callable[..., MemoryFleet]):
    """There is time between two attempts: who fails for six seconds is back for the third."""
    fleet = make_fleet(3)
    failing(fleet, "pi-02", fleet.now + 6.0)
    fleet.start_run(rounds=2)
    until = fleet.now + 1.5
    fleet.until(lambda: fleet.now > until)
    assert fleet.coordinator is not None and fleet.coordinator.training is not None
    shown = fleet.coordinator.training.status()
    assert (shown["phase"], shown["waiting_for"]) == ("waiting to try again", ["pi-02"])
    assert 0 < shown["time_left_s"] <= 2.0
    history = fleet.finish()
    assert (history.state, history.round) == ("finished", 2)
    assert len(fleet.named("attempt")) == 2
    at = [event["at"] for event in fleet.named("attempt")]
    assert at[1] - at[0] >= 2.0


def test_an_agent_that_keeps_failing_pauses_the_run_in_the_end(
    make_fleet: Callable[..., MemoryFleet],
):
    """Where it is needed, after the attempts, with its words."""
    fleet = make_fleet(3)
    failing(fleet, "pi-02", float("inf"))
    fleet.start_run(rounds=2)
    history = fleet.finish()
    assert history.state == "paused" and "the camera is gone" in history.reason
    assert len(fleet.named("attempt")) == 3


def test_a_coordinator_commits_no_round_of_fewer_participants(
    make_fleet: Callable[..., MemoryFleet],
):
    """Whatever the run's quorum says: its own configuration, which no operator changes."""
    fleet = make_fleet(3)
    fleet.coordinator.runs.min_participants = 3
    fleet.agents["pi-03"].ticks = 100_000
    fleet.start_run(rounds=1, quorum=0.3, deadline_s=20.0, attempts=1)
    history = fleet.finish()
    assert history.state == "paused" and history.rounds == []
    assert "2 of 3 required updates arrived" in history.reason


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({}, "agents enrolled: 2"),
        ({"agents": ["pi-01"]}, "agents named: 1"),
        ({"fraction": 0.5}, "agents enrolled: 2, a fraction of 0.5 takes 5"),
    ],
)
def test_a_run_that_can_have_no_such_round_is_refused_at_once(
    make_fleet: Callable[..., MemoryFleet], given: dict[str, object], why: str
):
    """And not after a wait."""
    fleet = make_fleet(2)
    fleet.coordinator.runs.min_participants = 3
    with pytest.raises(UsageError, match=f"fewer than 3 participants .*; {why}"):
        fleet.start_run(**given)


def test_an_open_round_of_fewer_participants_is_drawn_anew(make_fleet: Callable[..., MemoryFleet]):
    """The coordinator was started again with a larger number in the middle of a round."""
    fleet = make_fleet(3)
    for agent in fleet.agents.values():
        agent.ticks = 200
    run = fleet.start_run(rounds=1, agents=["pi-01"])
    fleet.until(lambda: bool(fleet.named("opened")))
    fleet.kill_coordinator()
    fleet.start_coordinator()
    assert fleet.coordinator is not None and fleet.coordinator.training is not None
    fleet.coordinator.training.stop("for the test")
    fleet.finish()
    fleet.coordinator.runs.min_participants = 2
    fleet.coordinator.runs.resume(RunFolder.find(fleet.state, run))
    history = fleet.finish()
    assert history.state == "paused" and history.rounds == []
    assert "1 of 2 required agents" in history.reason


def test_brought_weights_go_to_those_whose_owner_allows_them(
    make_fleet: Callable[..., MemoryFleet],
):
    """The others refuse once and are not asked again, and the quorum is of those who accept: also
    where one comes later."""
    fleet = make_fleet(0)
    for name in ("pi-01", "pi-02"):
        fleet.add(name, limits=Limits(accept_weights=True))
    for name in ("pi-03", "pi-05", "pi-06"):
        fleet.add(name)
    fleet.evaluator.begun = Begun(source="w.pt", digest="a" * 64, tensors=2, of=2)
    fleet.start_run(rounds=4)
    fleet.until(lambda: len(fleet.named("round")) == 2)
    late = fleet.add("pi-04")
    history = fleet.finish()
    assert (history.state, history.round) == ("finished", 4)
    assert {agent for r in history.rounds for agent in r.participants} == {"pi-01", "pi-02"}
    assert history.started is not None and history.started.begun == fleet.evaluator.begun
    assert fleet.agents["pi-03"].trained == [] and late.trained == []
    why = "weights that an operator brought; --accept-weights allows it"
    assert why in fleet.status("pi-03")["note"]
    assert fleet.status("pi-01")["limits"]["accept_weights"] is True
    fleet.evaluator.begun = None
    fleet.start_run(rounds=1)
    assert fleet.finish().rounds[0].participants.keys() == fleet.agents.keys()
