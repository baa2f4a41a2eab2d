"""Crashes of the coordinator: it goes on in the same round, and the bytes are the same."""

import errno
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from memory_fleet import MemoryFleet

from flctl.coordinator.store.folder import RunFolder, all_runs
from flctl.coordinator.store.journal import Journal
from flctl.digests import has_digest


def models(state: Path) -> list[str]:
    """Digests of the committed models, in order."""
    return [r.model for r in next(iter(all_runs(state))).history().rounds]


@pytest.mark.parametrize("strategy", ["fedavg", "fedadam"])
def test_resumed_from_a_copy_taken_at_every_append_the_model_is_the_same(
    make_fleet: Callable[..., MemoryFleet],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    strategy: str,
):
    """Whatever the last line of the journal is: the run goes on to the same three models.

    With its first line it is not a run yet, and nothing of it stays.

    Also where the strategy keeps something from round to round.
    """
    fleet = make_fleet(3)
    copies: list[Path] = []
    plain = Journal.append

    def append_and_copy(self: Journal, events, sync=True) -> None:
        plain(self, events, sync)
        copies.append(tmp_path / f"copy-{len(copies)}")
        shutil.copytree(fleet.state, copies[-1])

    monkeypatch.setattr(Journal, "append", append_and_copy)
    fleet.start_run(rounds=3, strategy=strategy)
    fleet.finish()
    expected = models(fleet.state)
    monkeypatch.setattr(Journal, "append", plain)
    keys = {name: agent.keys for name, agent in fleet.agents.items()}
    assert len(copies) > 9
    for copy in copies:
        again = make_fleet(0)
        again.kill_coordinator()
        again.start_coordinator(copy)
        if copy == copies[0]:  # its folder does not have its name yet, nobody was told
            assert list((copy / "runs").iterdir()) == []
            again.close()
            continue
        for name, pair in keys.items():
            again.add(name, enrol=False, keys=pair)
        history = again.finish()
        assert history.state == "finished"
        assert [r.model for r in history.rounds] == expected, f"resumed from {copy.name}"
        again.close()


@pytest.mark.parametrize("seed", range(12))
def test_killed_at_any_moment_nobody_trains_twice(
    make_fleet: Callable[..., MemoryFleet], seed: int
):
    """Agents keep what they have while the coordinator is away; each round is trained once."""
    undisturbed = make_fleet(3)
    undisturbed.start_run(rounds=4)
    undisturbed.finish()
    fleet = make_fleet(3)
    chance = random.Random(seed)
    for agent in fleet.agents.values():
        agent.ticks = chance.randint(1, 12)
    fleet.start_run(rounds=4)
    for _ in range(3):
        for _ in range(chance.randint(1, 25)):
            fleet.step()
        if fleet.coordinator is None or fleet.coordinator.training is None:
            break
        fleet.kill_coordinator()
        for _ in range(chance.randint(1, 40)):
            fleet.step()
        fleet.start_coordinator()
    history = fleet.finish()
    assert history.state == "finished"
    assert [r.round for r in history.rounds] == [1, 2, 3, 4]
    assert models(fleet.state) == models(undisturbed.state)
    for agent in fleet.agents.values():
        assert agent.trained == [(1, 0), (2, 4), (3, 8), (4, 12)]


def compressed(fleet: MemoryFleet, compression: str) -> None:
    names = tuple(fleet.agents)
    fleet.start_run(rounds=5, compression=compression, topk_share=0.01, agents=names)


def without_residuals(fleet: MemoryFleet) -> None:
    for agent in fleet.agents.values():
        shutil.rmtree(agent.folder / "residuals")


@pytest.mark.parametrize("compression", ["int8", "topk"])
@pytest.mark.parametrize("seed", range(6))
def test_agents_and_coordinator_killed_at_any_moment_compressed_updates_are_the_same(
    make_fleet: Callable[..., MemoryFleet], compression: str, seed: int
):
    """Also what top-k has not sent yet survives on the agents, for the order it belongs to."""
    undisturbed = make_fleet(3)
    compressed(undisturbed, compression)
    undisturbed.finish()
    fleet = make_fleet(3)
    chance = random.Random(seed)
    compressed(fleet, compression)
    for _ in range(6):
        for _ in range(chance.randint(1, 25)):
            fleet.step()
        if fleet.coordinator is None or fleet.coordinator.training is None:
            break
        victim = chance.choice([*fleet.agents.values(), None])
        if victim is not None:
            victim.kill()
            victim.start()
        else:
            fleet.kill_coordinator()
            fleet.start_coordinator()
    assert fleet.finish().state == "finished"
    assert len(models(fleet.state)) == 5
    assert models(fleet.state) == models(undisturbed.state)


def test_residuals_that_are_lost_are_missed_and_said(
    make_fleet: Callable[..., MemoryFleet], caplog: pytest.LogCaptureFixture
):
    """A new SD card: training goes on from zero, which gives another model."""
    whole, fleet = make_fleet(3), make_fleet(3)
    for each in (whole, fleet):
        compressed(each, "topk")
    whole.finish()
    fleet.until(lambda: len(fleet.named("round")) == 2)
    without_residuals(fleet)
    fleet.finish()
    assert models(fleet.state)[:2] == models(whole.state)[:2]
    assert models(fleet.state)[-1] != models(whole.state)[-1]
    assert "what was not sent before is lost" in caplog.text


def test_what_was_not_sent_of_older_runs_is_removed(fleet: MemoryFleet):
    """At most two runs and two positions of each stay on an agent's card."""
    for _ in range(4):
        run = fleet.start_run(rounds=4, compression="topk")
        fleet.finish()
    for agent in fleet.agents.values():
        kept = sorted((agent.folder / "residuals").iterdir())
        assert len(kept) == 2 and run in {folder.name for folder in kept}
        for folder in kept:
            positions = [int(path.stem) for path in folder.iterdir()]
            assert sorted(positions) == [12, 16]


def test_accepted_updates_survive_and_are_not_asked_for_again(fleet: MemoryFleet):
    """Two updates are safe, the third agent is still training: only that one is waited for."""
    fleet.agents["pi-03"].ticks = 200
    fleet.start_run(rounds=1)
    fleet.until(lambda: len(fleet.named("update")) == 2)
    fleet.kill_coordinator()
    fleet.start_coordinator()
    assert fleet.coordinator.training is not None
    assert fleet.coordinator.training.status()["accepted"] == ["pi-01", "pi-02"]
    history = fleet.finish()
    assert sorted(history.rounds[0].participants) == ["pi-01", "pi-02", "pi-03"]
    assert [agent.trained for agent in fleet.agents.values()] == [[(1, 0)]] * 3


def test_an_update_that_vanished_from_the_spool_is_fetched_again(fleet: MemoryFleet):
    """The journal says accepted, the file is not there: the agent is invited once more."""
    fleet.agents["pi-03"].ticks = 200
    run = fleet.start_run(rounds=1)
    fleet.until(lambda: len(fleet.named("update")) == 2)
    fleet.kill_coordinator()
    (RunFolder.find(fleet.state, run).spool_path(1) / "pi-01.safetensors").unlink()
    fleet.start_coordinator()
    history = fleet.finish()
    assert sorted(history.rounds[0].participants) == ["pi-01", "pi-02", "pi-03"]


def flip(path: Path) -> None:
    """One bit. The file keeps its length and its name."""
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("strategy", ["fedavg", "fedyogi"])
@pytest.mark.parametrize("what", ["model", "state"])
def test_of_a_damaged_checkpoint_the_one_before_is_used(
    make_fleet: Callable[..., MemoryFleet],
    strategy: str,
    what: str,
    caplog: pytest.LogCaptureFixture,
):
    """A flipped bit, also in the strategy's state: said aloud, and the round is done again."""
    whole, fleet = make_fleet(3), make_fleet(3)
    for each in (whole, fleet):
        run = each.start_run(rounds=4, strategy=strategy)
    whole.finish()
    fleet.until(lambda: len(fleet.named("round")) == 3)
    fleet.kill_coordinator()
    folder = RunFolder.find(fleet.state, run)
    round_id = folder.history().round
    damaged = folder.model_path(round_id)
    if what == "state" and strategy == "fedyogi":
        damaged = folder.round_path(round_id) / "server.variance.safetensors"
    flip(damaged)
    fleet.start_coordinator()
    assert has_digest(folder.path / "last.safetensors", folder.history().base)
    history = fleet.finish()
    assert history.state == "finished"
    assert models(fleet.state) == models(whole.state)
    assert f"{damaged}: damaged" in caplog.text
    assert f"it continues with the model of round {round_id - 1}" in caplog.text
    for name, expected in (("best", history.best), ("last", history.rounds[-1])):
        assert expected is not None
        assert has_digest(folder.path / f"{name}.safetensors", expected.model)


def test_with_no_whole_checkpoint_the_run_pauses_and_names_the_newest(fleet: MemoryFleet):
    run = fleet.start_run(rounds=3)
    fleet.until(lambda: len(fleet.named("round")) == 1)
    fleet.kill_coordinator()
    folder = RunFolder.find(fleet.state, run)
    newest = folder.model_path(folder.history().round)
    for path in {path.stat().st_ino: path for path in folder.path.rglob("model.*")}.values():
        flip(path)
    fleet.start_coordinator()
    assert fleet.coordinator.training is None
    history = folder.history()
    assert history.state == "paused"
    assert "damaged" in history.reason and str(newest) in history.reason


@pytest.mark.parametrize("seed", range(6))
def test_lost_doubled_and_late_messages_change_nothing(
    make_fleet: Callable[..., MemoryFleet], seed: int
):
    """A bad network costs time, not correctness: same models as on a good one."""
    undisturbed = make_fleet(3)
    undisturbed.start_run(rounds=2)
    undisturbed.finish()
    fleet = make_fleet(3, seed=seed)
    fleet.network.random_faults(lost=0.05, doubled=0.1, delayed=0.2)
    fleet.start_run(rounds=2, deadline_s=2000.0, wait_s=500.0)
    history = fleet.finish(within_s=5000.0)
    assert history.state == "finished"
    assert models(fleet.state) == models(undisturbed.state)
    for agent in fleet.agents.values():
        assert [r for r, _ in agent.trained] == [1, 2]


@pytest.mark.parametrize("call", ["pwrite", "fsync", "fdatasync"])
def test_a_full_disk_pauses_the_run_with_the_reason(
    fleet: MemoryFleet, monkeypatch: pytest.MonkeyPatch, call: str
):
    """In the spool or in the journal: one clear line, and when there is room it goes on."""
    plain = getattr(os, call)
    full = True

    def write(fd: int, *arguments: Any) -> Any:
        where = str(Path(f"/proc/self/fd/{fd}").readlink())
        if full and ("/updates" in where or (call == "fdatasync" and "/runs/" in where)):
            raise OSError(errno.ENOSPC, "No space left on device")
        return plain(fd, *arguments)

    run = fleet.start_run(rounds=2)
    monkeypatch.setattr(os, call, write)
    fleet.until(lambda: fleet.coordinator.training is None)
    (paused,) = fleet.named("paused")
    assert "o space left" in paused["reason"] or "disk is full" in paused["reason"]
    fleet.step()
    holding = {a.supervisor.state for a in fleet.agents.values()}
    assert holding == {"offering"}, "no agent was told that its update is safe"
    full = False
    fleet.coordinator.runs.resume(RunFolder.find(fleet.state, run))
    assert fleet.finish().state == "finished"
    for agent in fleet.agents.values():
        assert [r for r, _ in agent.trained] == [1, 2]
