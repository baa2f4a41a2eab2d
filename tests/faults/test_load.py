"""Part 7: three hundred agents on one coordinator."""

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from bed import UNDER, Bed
from real_fleet import wait_for
from table import Result

from flctl.fleet.connecting import connect_coordinator

pytestmark = [pytest.mark.timeout(1200)]

AGENTS, PROCESSES = 300, 6
JOINED_S = 10.0
PEAK_MB = 300
SLOW = 3.0
"""Machines that others use too."""


@pytest.fixture
def crowd(bed: Bed) -> Iterator[list[str]]:
    """Light agents with a token, dialling already; their names."""
    names = [f"light-{number:03}" for number in range(1, AGENTS + 1)]
    bed.start_coordinator()
    with connect_coordinator(bed.state) as console:
        token = console.token(3600, AGENTS)
    bed.kill("coordinator")
    given = {
        "coordinator": f"127.0.0.1:{bed.port}", "server_key": bed.server_key, "token": token,
        "task": "hill", "folder": str(bed.folder),
        "digest": hashlib.sha256((UNDER / "fault_tasks.py").read_bytes()).hexdigest(),
    }  # fmt: skip
    processes = []
    log = bed.folder / "light.log"
    for part in range(PROCESSES):
        settings = json.dumps({**given, "names": names[part::PROCESSES]})
        with log.open("ab") as out:
            processes.append(
                subprocess.Popen(
                    [sys.executable, str(Path(__file__).parent / "light.py"), settings],
                    stdin=subprocess.PIPE,
                    stdout=out,
                    stderr=out,
                    env=bed.environment(None),
                )
            )
    wait_for(lambda: log.read_text().count("the agents are there") == PROCESSES, "them", 300)
    yield names
    for process in processes:
        process.communicate(timeout=60)


def ready(bed: Bed) -> int:
    return sum(agent["state"] == "ready" for agent in bed.status().values())


def peak_mb(bed: Bed) -> float:
    """Of the coordinator's process, without its worker."""
    text = Path(f"/proc/{bed.processes['coordinator'].pid}/status").read_text()
    return next(int(line.split()[1]) / 1024 for line in text.splitlines() if "VmHWM" in line)


def test_three_hundred_agents(bed: Bed, crowd: list[str], row: Result):
    """All have joined with one token within 10 s; a round of a 1.72 MB model counts them all;
    the coordinator stays below 300 MB; and killed in the midst of a round, it has them all back
    at once and loses nothing."""
    row.fault, row.times = "300 agents, a coordinator killed", AGENTS
    bed.start_coordinator()
    began = time.monotonic()
    wait_for(lambda: ready(bed) == AGENTS, "all have joined", 120)
    joined_s = time.monotonic() - began
    row.note(f"all had joined after {joined_s:.1f} s")
    run = bed.begin(2, task="hill", agents=crowd, deadline_s=600.0, wait_s=120.0)
    bed.until_round(run, 1, 600)
    (first,) = bed.events(run, "round")
    row.note(f"a round took {first['seconds']:.1f} s, the coordinator {peak_mb(bed):.0f} MB")
    assert len(first["participants"]) == AGENTS and peak_mb(bed) < PEAK_MB

    def accepted() -> int:
        return sum(event["round"] == 2 for event in bed.events(run, "update"))

    wait_for(lambda: accepted() >= 20, "some updates of the second round", 300)
    bed.kill("coordinator")
    before = accepted()
    bed.start_coordinator()
    began = time.monotonic()
    wait_for(lambda: len(bed.status()) >= AGENTS and connected(bed) == AGENTS, "all back", 120)
    row.recovered_s = time.monotonic() - began
    assert bed.until_over(run, 600) == "finished"
    second = bed.events(run, "round")[1]
    row.note(f"killed with {before} updates; then {peak_mb(bed):.0f} MB")
    assert len(second["participants"]) == AGENTS and peak_mb(bed) < PEAK_MB
    assert accepted() == AGENTS, "none was accepted twice"
    assert joined_s < JOINED_S * SLOW and row.recovered_s < JOINED_S * SLOW


def connected(bed: Bed) -> int:
    away = ("lost", "stopped", "conflict")
    return sum(agent["state"] not in away for agent in bed.status().values())
