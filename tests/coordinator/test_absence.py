"""Runs whose agents go and come back: over the in-memory channel, with the time passed in."""

import logging
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from memory_fleet import MemoryFleet
from test_owner_refuses import failing

from flctl.coordinator.store.folder import RunFolder, all_runs
from flctl.coordinator.store.journal import Journal, read_events
from flctl.core.events import RoundCommitted, RoundOpened, UpdateStored
from flctl.core.history import History
from flctl.errors import RunError


def rounds_of(fleet: MemoryFleet, name: str) -> list[int]:
    return [r for r, _ in fleet.agents[name].trained]


def kill_in_round(fleet: MemoryFleet, round_id: int, *names: str) -> None:
    """While they train."""
    for name in names:
        fleet.agents[name].ticks = 100
    fleet.until(lambda: len(fleet.named("opened")) == round_id)
    fleet.until(lambda: all(round_id in rounds_of(fleet, name) for name in names))
    for name in names:
        fleet.agents[name].kill()
        fleet.agents[name].ticks = 2


def until_paused(fleet: MemoryFleet, within_s: float = 300.0) -> str:
    before = len(fleet.named("paused"))
    fleet.until(lambda: len(fleet.named("paused")) > before, within_s)
    fleet.step()
    assert fleet.history().awaits
    return fleet.history().reason


def until_finished(fleet: MemoryFleet, within_s: float = 60.0) -> History:
    fleet.until(lambda: fleet.history().state == "finished", within_s)
    return fleet.history()


@pytest.mark.parametrize("given", [{"quorum": 0.6}, {"quorum": None}])
def test_a_fleet_of_three_can_lose_one(fleet: MemoryFleet, given: dict[str, float | None]):
    """It is killed in a round: the run finishes by itself, and the record names it."""
    fleet.start_run(rounds=4, **given)
    kill_in_round(fleet, 2, "pi-03")
    history = fleet.finish(within_s=60.0)
    assert (history.state, history.reason, history.round) == ("finished", "", 4)
    assert [r.missing for r in history.rounds] == [(), ("pi-03",), ("pi-03",), ("pi-03",)]
    assert not fleet.named("attempt")


def test_without_the_quorum_the_run_pauses_and_goes_on_when_the_agent_returns(fleet: MemoryFleet):
    """One sentence names it; what the others have delivered counts, and none trains twice."""
    fleet.start_run(rounds=3, wait_s=30.0)
    kill_in_round(fleet, 2, "pi-03")
    at = fleet.now
    reason = until_paused(fleet)
    assert 30.0 <= fleet.now - at < 35.0
    assert reason.startswith("round 2: 2 of 3 required agents ready (pi-03: lost); ")
    assert "continues by itself" in reason and "\n" not in reason
    assert len(fleet.named("attempt")) == 1
    fleet.step(500.0)
    assert fleet.history().state == "paused"
    fleet.agents["pi-03"].start()
    history = until_finished(fleet)
    assert (history.state, history.round) == ("finished", 3)
    assert [sorted(r.participants) for r in history.rounds] == [["pi-01", "pi-02", "pi-03"]] * 3
    assert [r.attempt for r in history.rounds] == [1, 2, 1]
    for name in ("pi-01", "pi-02"):
        assert rounds_of(fleet, name) == [1, 2, 3]


def test_the_models_are_those_of_a_run_in_which_none_was_away(
    make_fleet: Callable[..., MemoryFleet],
):
    """The pause leaves no trace in them."""
    models = []
    for lost in (False, True):
        fleet = make_fleet(3)
        fleet.start_run(rounds=3, wait_s=5.0)
        if lost:
            kill_in_round(fleet, 2, "pi-02")
            until_paused(fleet)
            fleet.agents["pi-02"].start()
        models.append([r.model for r in until_finished(fleet).rounds])
    assert models[0] == models[1]


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_coordinator_that_is_started_again_goes_on_waiting(fleet: MemoryFleet, when: str):
    """Killed before the pause, or in it; and it writes nothing while it waits."""
    run = fleet.start_run(rounds=3, wait_s=30.0)
    kill_in_round(fleet, 2, "pi-03")
    if when == "before":
        fleet.step(2.0)
    else:
        until_paused(fleet)
    fleet.kill_coordinator()
    fleet.start_coordinator()
    if when == "before":
        until_paused(fleet)
    path = RunFolder.find(fleet.state, run).journal_path
    size = path.stat().st_size
    for _ in range(100):
        fleet.step(1.0)
    assert path.stat().st_size == size
    status = fleet.coordinator.runs.status()
    assert (status["run"], status["round"]) == (run, 1)
    assert status["phase"].startswith("paused") and status["waiting_for"] == ["pi-03"]
    fleet.agents["pi-03"].start()
    history = until_finished(fleet)
    assert [sorted(r.participants) for r in history.rounds] == [["pi-01", "pi-02", "pi-03"]] * 3
    for name in ("pi-01", "pi-02"):
        assert rounds_of(fleet, name) == [1, 2, 3]


def test_two_of_three_away_is_not_a_finished_run(fleet: MemoryFleet):
    """Neither at the start nor later: one Pi's update is not the model of a fleet."""
    for name in ("pi-02", "pi-03"):
        fleet.agents[name].kill()
    fleet.start_run(rounds=2, quorum=None)
    reason = until_paused(fleet)
    assert fleet.history().rounds == []
    assert reason.startswith("round 1: 1 of 2 required agents ready (pi-02: ")
    assert "pi-03: " in reason
    fleet.agents["pi-02"].start()
    fleet.until(lambda: len(fleet.named("round")) == 2)
    history = fleet.finish()
    assert history.state == "finished"
    assert [r.missing for r in history.rounds] == [("pi-03",)] * 2


@pytest.mark.parametrize("order", ["cordon", "revoke"])
@pytest.mark.parametrize("paused", [False, True])
def test_an_agent_that_is_gone_for_good_is_left_out_by_an_order(
    fleet: MemoryFleet, order: str, paused: bool
):
    """At once, whether the round still waits for it or the run is paused by now."""
    fleet.start_run(rounds=3, wait_s=30.0)
    kill_in_round(fleet, 2, "pi-03")
    if paused:
        until_paused(fleet)
    else:
        fleet.step(5.0)
    if order == "cordon":
        fleet.coordinator.agents.cordon("pi-03", held=True)
    else:
        fleet.keyring.revoke("pi-03")
    history = until_finished(fleet, within_s=20.0)
    assert [len(r.participants) for r in history.rounds] == [3, 2, 2]
    assert bool(fleet.named("paused")) == paused
    for name in ("pi-01", "pi-02"):
        assert rounds_of(fleet, name) == [1, 2, 3]


def test_an_attempt_is_drawn_again_from_those_that_are_here(
    make_fleet: Callable[..., MemoryFleet],
):
    """Half of six are asked; one of these goes: another takes its place, what came in stays."""
    fleet = make_fleet(6)
    fleet.start_run(rounds=1, fraction=0.5)
    fleet.until(lambda: len(fleet.named("opened")) == 1)
    first = set(fleet.named("opened")[0]["invited"])
    kill_in_round(fleet, 1, gone := sorted(first)[0])
    history = fleet.finish(within_s=20.0)
    (done,) = history.rounds
    assert history.state == "finished" and done.attempt == 2
    assert len(done.participants) == 3 and gone not in done.participants
    assert first - {gone} < set(done.participants)
    assert done.missing == (gone,)
    again = fleet.named("opened")[1]
    assert (again["attempt"], again["need"], list(again["absent"])) == (2, 3, [gone])


def test_a_run_of_a_single_agent_says_so(
    make_fleet: Callable[..., MemoryFleet], caplog: pytest.LogCaptureFixture
):
    """In a line when it begins, and in the record when it ends."""
    fleet = make_fleet(1)
    with caplog.at_level(logging.WARNING):
        fleet.start_run(rounds=2, quorum=None)
        history = fleet.finish()
    assert history.state == "finished"
    assert history.reason == (
        "every round is the update of a single agent, pi-01: no other agent took part"
    )
    said = [r.message for r in caplog.records if "asks one agent only, pi-01" in r.message]
    assert len(said) == 1


def test_who_fails_at_once_and_who_is_away_end_a_run_after_its_attempts(fleet: MemoryFleet):
    """The one that is away does not make the other one be asked without end."""
    failing(fleet, "pi-02", float("inf"))
    fleet.start_run(rounds=2, quorum=2, wait_s=5.0)
    kill_in_round(fleet, 1, "pi-03")
    history = fleet.finish()
    assert history.state == "paused" and not history.awaits
    assert "the camera is gone" in history.reason
    assert len(fleet.named("attempt")) == 3


def test_an_agent_that_is_back_and_still_looks_at_its_data_is_waited_for(fleet: MemoryFleet):
    """Longer than one that is away: a Pi imports slowly."""
    fleet.start_run(rounds=3, wait_s=5.0)
    kill_in_round(fleet, 2, "pi-03")
    fleet.agents["pi-03"].start()
    fleet.agents["pi-03"].worker.left = 300
    fleet.until(lambda: fleet.status("pi-03")["state"] == "starting")
    fleet.agents["pi-03"].worker.left = 300
    assert fleet.finish().state == "finished"
    assert not fleet.named("paused")


def test_a_fleet_of_two_is_upgraded_in_a_round(make_fleet: Callable[..., MemoryFleet]):
    """The one that is cordoned and away is waited for: one agent is not enough."""
    fleet = make_fleet(2)
    fleet.start_run(rounds=3, wait_s=5.0, quorum=None)
    kill_in_round(fleet, 2, "pi-02")
    fleet.coordinator.agents.cordon("pi-02", held=True)
    for _ in range(600):
        fleet.step()
    assert fleet.history().state == "running"
    fleet.agents["pi-02"].start()
    fleet.step(1.0)
    fleet.coordinator.agents.cordon("pi-02", held=False)
    history = fleet.finish()
    assert history.state == "finished"
    assert [len(r.participants) for r in history.rounds] == [2, 2, 2]


# Operators ---------------------------------------------------------------------------------


def test_a_run_that_waits_can_be_stopped(fleet: MemoryFleet):
    """It does not go on then, whoever returns and whatever is restarted."""
    run = fleet.start_run(rounds=3, wait_s=5.0)
    kill_in_round(fleet, 2, "pi-03")
    until_paused(fleet)
    folder = RunFolder.find(fleet.state, run)
    assert fleet.coordinator.runs.stopped(folder)
    assert fleet.coordinator.runs.stopped(folder), "also when it is asked again"
    assert fleet.coordinator.runs.status() is None
    fleet.agents["pi-03"].start()
    fleet.kill_coordinator()
    fleet.start_coordinator()
    for _ in range(100):
        fleet.step()
    assert (fleet.history().state, fleet.history().round) == ("stopped", 1)


def test_another_run_can_be_begun_and_the_first_one_stays_paused(fleet: MemoryFleet):
    """It is resumed by hand: an operator has gone on to other things."""
    first = fleet.start_run(rounds=3, wait_s=5.0)
    kill_in_round(fleet, 2, "pi-03")
    until_paused(fleet)
    fleet.start_run(rounds=2, agents=["pi-01", "pi-02"])
    assert fleet.finish().state == "finished"
    fleet.agents["pi-03"].start()
    for restart in (False, True):
        if restart:
            fleet.kill_coordinator()
            fleet.start_coordinator()
        for _ in range(100):
            fleet.step()
        assert RunFolder.find(fleet.state, first).history().state == "paused"
    fleet.coordinator.runs.resume(RunFolder.find(fleet.state, first))
    fleet.finish()
    assert RunFolder.find(fleet.state, first).history().state == "finished"


def test_a_run_that_has_gone_on_is_in_progress_for_others(fleet: MemoryFleet):
    fleet.start_run(rounds=30, wait_s=5.0)
    kill_in_round(fleet, 2, "pi-03")
    until_paused(fleet)
    fleet.agents["pi-03"].start()
    fleet.until(lambda: fleet.coordinator.training is not None)
    with pytest.raises(RunError, match="is in progress"):
        fleet.start_run()


def test_for_whom_an_open_round_waits_is_told_and_shown(fleet: MemoryFleet):
    """With the reason, and for how long."""
    fleet.start_run(rounds=3, wait_s=30.0)
    kill_in_round(fleet, 2, "pi-03")
    fleet.until(lambda: bool([e for e in fleet.named("waiting") if "round" in e]), within_s=10.0)
    told = fleet.named("waiting")[-1]
    assert (told["round"], told["missing"]) == (2, "pi-03: lost")
    for _ in range(100):
        fleet.step()
    status = fleet.coordinator.training.status()
    assert status["why"] == "pi-03: lost" and 0.0 < status["time_left_s"] <= 20.0
    until_paused(fleet)
    assert len([e for e in fleet.named("waiting") if "round" in e]) <= 2


# Faults ------------------------------------------------------------------------------------


def test_resumed_from_a_copy_of_any_moment_of_the_pause_the_models_are_the_same(
    make_fleet: Callable[..., MemoryFleet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Whatever line of the journal was the last one: with all agents back the run ends alike."""
    fleet = make_fleet(3)
    fleet.start_run(rounds=3, wait_s=5.0)
    fleet.until(lambda: len(fleet.named("round")) == 1)
    copies: list[Path] = []
    plain = Journal.append

    def append_and_copy(self: Journal, events: Any, sync: bool = True) -> None:
        plain(self, events, sync)
        copies.append(tmp_path / f"copy-{len(copies)}")
        shutil.copytree(fleet.state, copies[-1])

    monkeypatch.setattr(Journal, "append", append_and_copy)
    kill_in_round(fleet, 2, "pi-03")
    until_paused(fleet)
    fleet.agents["pi-03"].start()
    expected = [r.model for r in until_finished(fleet).rounds]
    monkeypatch.setattr(Journal, "append", plain)
    keys = {name: agent.keys for name, agent in fleet.agents.items()}
    lasts = set()
    for copy in copies:
        again = make_fleet(0)
        again.kill_coordinator()
        again.start_coordinator(copy)
        lasts.add(again.history().state)
        for name, pair in keys.items():
            again.add(name, enrol=False, keys=pair)
        assert [r.model for r in until_finished(again).rounds] == expected, copy.name
        again.close()
    assert lasts == {"running", "paused", "finished"}


@pytest.mark.parametrize("seed", range(8))
def test_whoever_comes_and_goes_no_round_is_one_agents_update(
    make_fleet: Callable[..., MemoryFleet], seed: int
):
    """Agents and coordinator die and return at random: each round has its quorum, counts every
    update that was accepted, and names who was away; once all are back the run ends."""
    chance = random.Random(seed)
    fleet = make_fleet(count := chance.choice([2, 3, 4]))
    names = sorted(fleet.agents)
    for agent in fleet.agents.values():
        agent.ticks = chance.randint(1, 30)
    given = {"agents": names} if chance.random() < 0.5 else {}
    fleet.start_run(rounds=6, quorum=None, wait_s=3.0, deadline_s=40.0, attempts=100, **given)
    for _ in range(25):
        for _ in range(chance.randint(1, 60)):
            fleet.step()
        if chance.random() < 0.2:
            fleet.kill_coordinator()
            fleet.start_coordinator()
        agent = fleet.agents[chance.choice(names)]
        if agent.alive:
            agent.kill()
        else:
            agent.start()
    for agent in fleet.agents.values():
        if not agent.alive:
            agent.start()
    history = until_finished(fleet, within_s=600.0)
    folder = next(iter(all_runs(fleet.state)))
    accepted: dict[int, set[str]] = {}
    needs: dict[int, int] = {}
    for event in read_events(folder.journal_path):
        match event:
            case RoundOpened():
                needs[event.round] = event.need
            case UpdateStored():
                accepted.setdefault(event.round, set()).add(event.agent)
            case RoundCommitted():
                people = set(event.participants)
                assert people == accepted[event.round]
                assert len(people) >= needs[event.round] >= 2
                assert set(event.missing) == set(names) - people
    assert [r.round for r in history.rounds] == [1, 2, 3, 4, 5, 6]
    assert count == len(names) and history.reason == ""
