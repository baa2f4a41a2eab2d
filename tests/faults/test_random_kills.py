"""Twenty kills at moments that the seed chooses, of whoever it chooses."""

import time
from collections import Counter
from collections.abc import Callable
from random import Random

import pytest
from bed import Bed
from table import Result

pytestmark = pytest.mark.timeout(600)

KILLS = 20


def test_twenty_kills_at_random_moments(
    bed: Bed, row: Result, chance: Random, unbroken: Callable[..., None]
):
    """Coordinator, supervisors and workers of a run that goes on all the time."""
    row.fault, row.times = "kill -9 of anybody at any moment", KILLS
    bed.start_all()
    for name in bed.agents:
        bed.pace(name, 0.02)
    run = bed.begin(100_000, task="boulder", lr=0.01, epochs=4)
    bed.until_round(run, 1)
    own: Counter[str] = Counter()
    victims: Counter[str] = Counter()
    for _ in range(KILLS):
        time.sleep(chance.uniform(0.0, 3.0))  # the fault itself is at random
        who = chance.choice(["coordinator", "supervisor", "worker"])
        victims[who] += 1
        name = "coordinator" if who == "coordinator" else chance.choice(bed.agents)
        own[name] += 1
        if who == "worker":
            if (worker := bed.worker_of(name)) is not None:
                worker.kill()
            continue
        bed.kill(name)
        if who == "coordinator":
            bed.start_coordinator()
        else:
            bed.start_agent(name)
    began = time.monotonic()
    bed.until_round(run, bed.committed(run) + 2)
    row.recovered_s = time.monotonic() - began
    bed.stop(run)
    row.note(", ".join(f"{who} {times}" for who, times in sorted(victims.items())))
    unbroken(bed, run, end="stopped", own_faults=own)
