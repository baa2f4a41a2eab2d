"""The coordinator dies once at every point where it writes, syncs, renames or sends.

A point is a kind of place (see `under/fault_points.py`): what is done, to which file, by which
functions; so the thousandth write of a run is the same point as the first, and what a
restarted coordinator does is another one. The list is found while the test runs: each life
adds what it has passed. Writes die a second time with half of their bytes done.
"""

from collections import deque
from collections.abc import Callable
from random import Random
from signal import SIGKILL, SIGTERM

import pytest
from bed import Bed
from dying import Dying
from power import modes
from table import Result

pytestmark = pytest.mark.timeout(3000)

OF_A_START = ("coordinator/store/resume.", "coordinator/run/keeper.made", "worker/")
OF_AN_END = (
    "coordinator/run/run.end",
    "coordinator/front/service.close",
    "coordinator/front/operators",
)
PATIENCE = 4
"""Rounds after which a point that does not come again is given up."""
ENDLESS = 100_000


def deaths(name: str) -> list[tuple[str, bool]]:
    return [(name, False), (name, True)] if name.startswith("write ") else [(name, False)]


def has_part_of(name: str, parts: tuple[str, ...]) -> bool:
    return any(part in name for part in parts)


@pytest.mark.parametrize("disk", ["kept", "power"])
def test_the_coordinator_dies_at_every_point_of_a_round(
    bed: Bed, row: Result, chance: Random, unbroken: Callable[..., None], disk: str
):
    """One run of many rounds, in which it dies and starts again at each point."""
    row.fault = f"coordinator dies at each point of a round, {SAID[disk]}"
    dying = Dying(bed, row, chance, modes(chance) if disk == "power" else None)
    dying.live()
    for name in bed.agents:
        bed.start_agent(name)
    bed.until_ready()
    run = dying.begin(ENDLESS)
    assert run is not None
    bed.until_round(run, PATIENCE)
    bed.kill("coordinator")
    pending = deque((None, *death) for death in new_deaths(dying))
    missed = []

    def dies(point: str, torn: bool = False) -> bool:
        ready = dying.live(point, torn)
        begun = bed.committed(run)
        dead = not ready or not dying.until(passed(bed, run, begun), f"after {begun}")
        pending.extend((point, *death) for death in new_deaths(dying))
        if dead:
            dying.died(run)
        else:
            bed.kill("coordinator")
        return dead

    while pending:
        before, point, torn = pending.popleft()
        # What a life does at its start depends on where the last one ended.
        if not dies(point, torn) and not (before and dies(before) and dies(point, torn)):
            missed.append(point)
    dying.live()
    bed.until_round(run, bed.committed(run) + 1)
    bed.stop(run)
    row.note(f"{len(missed)} points did not come again: {'; '.join(missed)}")
    unbroken(bed, run, end="stopped", unsafe=dying.unsafe)


SAID = {"kept": "what was written stays", "power": "power lost"}


def new_deaths(dying: Dying) -> list[tuple[str, bool]]:
    return [
        death
        for name in dying.new_points()
        if not has_part_of(name, (*OF_A_START, *OF_AN_END))
        for death in deaths(name)
    ]


def passed(bed: Bed, run: str, round_id: int) -> Callable[[], bool]:
    """Whether it has become unlikely that a point is still to come."""
    return lambda: bed.committed(run) >= round_id + PATIENCE


@pytest.mark.parametrize("disk", ["kept", "power"])
def test_the_coordinator_dies_at_every_point_of_a_start_and_an_end(
    bed: Bed, row: Result, chance: Random, unbroken: Callable[..., None], disk: str
):
    """A run is there and goes on, or it is not there; of half a run nothing stays.

    Whoever was told its name finds it again.
    """
    row.fault = f"coordinator dies as a run begins or ends, {SAID[disk]}"
    dying = Dying(bed, row, chance, modes(chance) if disk == "power" else None)
    dying.live()
    for name in bed.agents:
        bed.start_agent(name)
    bed.until_ready()
    run = dying.begin(1)
    assert run is not None
    bed.until_over(run)
    bed.kill("coordinator", SIGTERM)
    expected = [line["model"] for line in bed.events(run, "round")]
    pending = deque(of_a_start(dying))
    missed = []
    while pending:
        point, torn = pending.popleft()
        run = None
        if dying.live(point, torn) and dying.all_ready():
            run = dying.begin(1)
            if run is not None and dying.until(lambda r=run: bed.is_over(r), "the end"):
                bed.processes["coordinator"].terminate()
        dead = bed.processes["coordinator"].wait(30) == -SIGKILL
        pending.extend(of_a_start(dying))
        if dead:
            dying.died(run)
        else:
            bed.kill("coordinator")
            missed.append(point)
        bed.start_coordinator()
        bed.until_ready()
        for found in bed.runs():
            assert bed.until_over(found) == "finished"
            assert [line["model"] for line in bed.events(found, "round")] == expected
        assert run is None or run in bed.runs(), f"{run} was lost, and had been promised"
        bed.kill("coordinator", SIGTERM)
    row.note(f"{len(missed)} points did not come again: {'; '.join(missed)}")
    for found in bed.runs():
        unbroken(bed, found, replay=found == bed.runs()[-1], unsafe=dying.unsafe)


def of_a_start(dying: Dying) -> list[tuple[str, bool]]:
    return [
        death
        for name in dying.new_points()
        if has_part_of(name, (*OF_A_START, *OF_AN_END))
        for death in deaths(name)
    ]
