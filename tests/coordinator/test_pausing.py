"""An operator pauses a run and resumes it: over the in-memory channel, with the time passed in."""

from collections.abc import Callable

import pytest
from memory_fleet import MemoryFleet, sha256
from test_absence import kill_in_round, until_finished, until_paused
from test_operators import console
from test_owner_refuses import failing

from flctl.coordinator.alerts.observing import Observer
from flctl.coordinator.alerts.settings import AlertSettings
from flctl.coordinator.store.folder import RunFolder, all_runs
from flctl.core.events import HELD, PauseOrdered, RunPaused, RunResumed
from flctl.errors import UsageError


def folder_of(fleet: MemoryFleet) -> RunFolder:
    return list(all_runs(fleet.state))[-1]


def last_model(fleet: MemoryFleet) -> str:
    return sha256(folder_of(fleet).path / "last.safetensors")


def wait(fleet: MemoryFleet, seconds: float = 120.0) -> None:
    for _ in range(round(seconds / 0.5)):
        fleet.step(0.5)


def until_held(fleet: MemoryFleet) -> None:
    """It is paused, and stays so."""
    fleet.until(lambda: fleet.history().state == "paused")
    opened = len(fleet.named("opened"))
    wait(fleet)
    history = fleet.history()
    assert (history.state, history.reason, history.held) == ("paused", HELD, True)
    assert len(fleet.named("opened")) == opened


@pytest.fixture
def plain(make_fleet: Callable[..., MemoryFleet]) -> str:
    """The last model of such a run that is not paused."""
    fleet = make_fleet(3)
    fleet.start_run(rounds=4)
    assert fleet.finish().round == 4
    return last_model(fleet)


def open_round(fleet: MemoryFleet, round_id: int, ticks: int = 20) -> None:
    """Agents are at work in it."""
    for agent in fleet.agents.values():
        agent.ticks = ticks
    fleet.until(lambda: len(fleet.named("opened")) == round_id)
    fleet.step()


@pytest.mark.parametrize("restart", ["", "in the round", "when it is paused", "both"])
def test_a_paused_run_goes_on_with_the_same_bytes(fleet: MemoryFleet, plain: str, restart: str):
    """The open round is finished, no other is drawn, whatever is restarted; then it goes on."""
    run = fleet.start_run(rounds=4)
    open_round(fleet, 2)
    with console(fleet) as operator:
        assert operator.pause(run).round == 2
        assert operator.pause(run).round == 2, "as often as one likes"
        told = operator.status()["coordinator"]["run"]
        assert told["pausing"] and told["round"] == 1
    if restart in ("in the round", "both"):
        fleet.kill_coordinator()
        fleet.start_coordinator()
        assert fleet.coordinator is not None and fleet.coordinator.training is not None
    until_held(fleet)
    if restart in ("when it is paused", "both"):
        fleet.kill_coordinator()
        fleet.start_coordinator()
        until_held(fleet)
    assert fleet.history().round == 2
    assert len(fleet.named("pausing")) == 1
    with console(fleet) as operator:
        told = operator.status()["coordinator"]["run"]
        assert (told["phase"], told["round"], told["rounds"]) == (HELD, 2, 4)
        assert operator.pause(run).round is None
        operator.resume(run)
    history = until_finished(fleet)
    assert (history.round, history.held, last_model(fleet)) == (4, False, plain)


def test_a_pause_is_taken_back_before_the_round_has_ended(fleet: MemoryFleet, plain: str):
    run = fleet.start_run(rounds=4)
    open_round(fleet, 2)
    with console(fleet) as operator:
        operator.pause(run)
        operator.resume(run)
        assert not operator.status()["coordinator"]["run"]["pausing"]
        assert operator.resume(run) == run
    assert until_finished(fleet).round == 4
    assert last_model(fleet) == plain and not fleet.named("paused")


def test_the_last_round_finishes_the_run(fleet: MemoryFleet, plain: str):
    """There is nothing to hold back."""
    run = fleet.start_run(rounds=4)
    open_round(fleet, 4)
    with console(fleet) as operator:
        assert operator.pause(run).round == 4
    history = until_finished(fleet)
    assert (history.held, last_model(fleet)) == (False, plain)


def test_between_rounds_it_is_paused_at_once(fleet: MemoryFleet):
    """While it waits for agents; and they may come."""
    for name in ("pi-01", "pi-02", "pi-03"):
        fleet.agents[name].kill()
    run = fleet.start_run(rounds=2, wait_s=600.0)
    fleet.step()
    with console(fleet) as operator:
        assert operator.pause(run).round is None
    fleet.agents["pi-01"].start()
    until_held(fleet)
    assert fleet.history().round == 0 and not fleet.named("opened")


@pytest.mark.parametrize("at", ["before", "after"])
def test_a_failed_attempt_is_not_made_again(fleet: MemoryFleet, at: str):
    """It would draw agents again. Resumed, the round is the same one."""
    failing(fleet, "pi-03", fleet.now + 4.0)
    run = fleet.start_run(rounds=2, quorum=3, attempts=5)
    if at == "after":
        fleet.until(lambda: bool(fleet.named("attempt")))
    else:
        open_round(fleet, 1, ticks=5)
    with console(fleet) as operator:
        operator.pause(run)
    until_held(fleet)
    assert len(fleet.named("attempt")) == len(fleet.named("opened")) == 1
    with console(fleet) as operator:
        operator.resume(run)
    assert until_finished(fleet, 300.0).round == 2


def test_a_run_that_waits_for_its_agents_is_paused_too(fleet: MemoryFleet):
    """It does not go on when they come back, nor after a restart: only by an order."""
    run = fleet.start_run(rounds=3, wait_s=5.0)
    kill_in_round(fleet, 2, "pi-03")
    until_paused(fleet)
    with console(fleet) as operator:
        assert operator.pause(run).round is None
    fleet.agents["pi-03"].start()
    until_held(fleet)
    fleet.kill_coordinator()
    fleet.start_coordinator()
    until_held(fleet)
    with console(fleet) as operator:
        operator.resume(run)
    assert until_finished(fleet, 300.0).round == 3


def test_a_paused_run_that_lacks_agents_stays_paused(fleet: MemoryFleet):
    """Its round cannot be finished: it would continue by itself if it had not been paused."""
    run = fleet.start_run(rounds=3, wait_s=5.0)
    open_round(fleet, 2, ticks=100)
    with console(fleet) as operator:
        operator.pause(run)
    for name in ("pi-02", "pi-03"):
        fleet.agents[name].kill()
    fleet.until(lambda: fleet.history().state == "paused")
    fleet.agents["pi-02"].start()
    fleet.agents["pi-03"].start()
    wait(fleet)
    assert (fleet.history().state, fleet.history().awaits) == ("paused", False)


def test_a_paused_run_can_be_stopped(fleet: MemoryFleet):
    """In the round as well as afterwards; resumed, it is no longer held."""
    run = fleet.start_run(rounds=3)
    open_round(fleet, 2)
    with console(fleet) as operator:
        operator.pause(run)
        operator.stop(run)
        assert (fleet.history().state, fleet.history().held) == ("stopped", False)
        operator.resume(run)
        operator.pause(run)
    until_held(fleet)
    with console(fleet) as operator:
        assert operator.stop(run) == operator.stop(run) == run
        assert operator.status()["coordinator"]["run"] is None
        operator.resume(run)
    assert until_finished(fleet).round == 3


def test_only_a_run_in_progress_is_paused(fleet: MemoryFleet):
    run = fleet.start_run(rounds=1)
    fleet.finish()
    with console(fleet) as operator:
        with pytest.raises(UsageError, match="is not in progress"):
            operator.pause(run)
        with pytest.raises(UsageError, match="no run"):
            operator.pause("nothing")


def test_a_run_that_is_personalised_has_no_round_to_pause(fleet: MemoryFleet):
    for agent in fleet.agents.values():
        agent.validation, agent.held_out = 4, 4
    run = fleet.start_run(rounds=1, personalise=True)
    fleet.until(lambda: bool(fleet.named("personalising")))
    with console(fleet) as operator, pytest.raises(UsageError, match="no more rounds"):
        operator.pause(run)


def test_another_run_may_begin_while_one_is_paused(fleet: MemoryFleet):
    first = fleet.start_run(rounds=3)
    open_round(fleet, 1)
    with console(fleet) as operator:
        operator.pause(first)
        until_held(fleet)
        operator.start({"task": "toy", "rounds": 1}, "the test")
        fleet.finish()
        operator.resume(first)
    assert fleet.finish().state == "finished"


def test_its_journal_says_who_waits_for_whom(fleet: MemoryFleet):
    run = fleet.start_run(rounds=2)
    open_round(fleet, 1)
    with console(fleet) as operator:
        operator.pause(run)
        until_held(fleet)
        operator.resume(run)
        until_finished(fleet)
        happened = list(operator.events(run))
    kinds = (PauseOrdered, RunPaused, RunResumed)
    assert [type(event) for event in happened if isinstance(event, kinds)] == [*kinds]


def test_a_pause_is_no_reason_for_an_alert(fleet: MemoryFleet):
    """That no round is committed is what the operator has ordered."""
    assert fleet.coordinator is not None
    run = fleet.start_run(rounds=2)
    open_round(fleet, 1)
    with console(fleet) as operator:
        operator.pause(run)
    until_held(fleet)
    observer = Observer(AlertSettings(), fleet.coordinator.roster, set(), {})
    seen = observer.observe((), fleet.coordinator.runs.status(), (), fleet.now, fleet.wall)
    assert [each.alert for each in seen] == []
