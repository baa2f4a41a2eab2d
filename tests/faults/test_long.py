"""Part 7 again: what grows with time. The clock is passed in, so that days take seconds."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from table import Result

sys.path.insert(0, str(Path(__file__).parents[1] / "coordinator"))

import memory_fleet
from memory_fleet import MemoryFleet

pytestmark = [pytest.mark.timeout(1200)]

MB = 1 << 20
DAY_S = 86_400.0


@pytest.fixture
def make_fleet(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], MemoryFleet]]:
    """With a model of 4 KB; its events are not kept."""
    monkeypatch.setattr(memory_fleet, "BIG", 4_000)
    made: list[MemoryFleet] = []

    def make(agents: int) -> MemoryFleet:
        made.append(MemoryFleet(agents))
        assert made[-1].coordinator is not None
        made[-1].coordinator.watchers.remove(made[-1].note)
        return made[-1]

    yield make
    for fleet in made:
        fleet.close()


def memory() -> int:
    return int(psutil.Process().memory_info().rss)


def test_two_thousand_rounds(make_fleet: Callable[[int], MemoryFleet], row: Result):
    """Coordinator and agents hold no more after them than after five hundred, but for the
    history of the run: 1.5 KB a round, and what the allocator keeps."""
    row.fault, row.times = "2,000 rounds", 2000
    fleet = make_fleet(3)
    fleet.start_run(rounds=2000)

    def committed() -> int:
        training = fleet.coordinator.training if fleet.coordinator is not None else None
        return training.history.round if training is not None else 2000

    fleet.until(lambda: committed() >= 500, within_s=1e5)
    before, files = memory(), psutil.Process().num_fds()
    history = fleet.finish(within_s=1e5)
    grown = (memory() - before) / MB
    row.note(f"1,500 rounds later: {grown:+.1f} MB")
    assert history.state == "finished" and history.round == 2000
    assert [event.round for event in history.rounds] == list(range(1, 2001))
    assert fleet.events == []
    assert grown < 10
    assert psutil.Process().num_fds() <= files + 5


def test_a_day_of_heartbeats(make_fleet: Callable[[int], MemoryFleet], row: Result):
    """Nobody is lost, each beat is echoed, and nothing grows; then they train as ever."""
    row.fault, row.times = "24 hours of heartbeats", 10 * 17_280
    fleet = make_fleet(10)
    assert fleet.coordinator is not None
    roster = fleet.coordinator.roster
    fleet.until(lambda: all(roster.member(name).ready for name in fleet.agents))
    hour = fleet.now + 3600
    while fleet.now < hour:
        fleet.step(2.5)
    before, ends = memory(), fleet.now + DAY_S
    while fleet.now < ends:
        fleet.step(2.5)
    grown = (memory() - before) / MB
    row.note(f"a day later: {grown:+.1f} MB")
    assert grown < 5
    for name, agent in fleet.agents.items():
        assert fleet.status(name)["state"] == "ready"
        assert agent.supervisor._timer._sequence >= DAY_S / 5
        assert not agent.supervisor._timer.is_silent(fleet.now)
    fleet.start_run(rounds=2)
    assert fleet.finish().state == "finished"
