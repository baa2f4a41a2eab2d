"""Processes that are killed, starved of memory, or stopped for a while."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from bed import WITHIN_S, Bed
from real_fleet import wait_for
from table import Result

pytestmark = pytest.mark.timeout(600)

STOPPED_S = 60.0
MEMORY = 450 * 2**20
"""Enough for a supervisor and torch, not for a worker that eats."""


@pytest.fixture
def training(bed: Bed) -> str:
    """A run whose first round both agents are training, slowly."""
    bed.start_all()
    return begin(bed)


def begin(bed: Bed) -> str:
    for name in bed.agents:
        bed.pace(name, 0.5)
    run = bed.begin(3, epochs=20)
    bed.until_training(*bed.agents)
    return run


def finish(bed: Bed, run: str) -> None:
    for name in bed.agents:
        bed.pace(name, 0)
    assert bed.until_over(run) == "finished"


def since(
    began: float, condition: Callable[[], Any], what: str, within_s: float = WITHIN_S
) -> float:
    """Seconds from `began` until it is so."""
    wait_for(condition, what, within_s)
    return time.monotonic() - began


def worker(bed: Bed, name: str) -> psutil.Process:
    found = bed.worker_of(name)
    assert found is not None
    return found


def state(bed: Bed, name: str) -> str:
    return str(bed.status()[name]["state"])


def test_kill_9_of_a_supervisor(
    bed: Bed, training: str, row: Result, unbroken: Callable[..., None]
):
    """Its worker ends with it, the coordinator knows at once; the next one trains the round."""
    row.fault = "kill -9 of a supervisor"
    its_worker = worker(bed, "pi-01")
    began = time.monotonic()
    bed.kill("pi-01")
    row.noticed_s = since(began, lambda: state(bed, "pi-01") == "lost", "pi-01 lost")
    wait_for(lambda: not its_worker.is_running(), "the end of its worker", 10)
    began = time.monotonic()
    bed.start_agent("pi-01")
    row.recovered_s = since(began, lambda: state(bed, "pi-01") == "training", "pi-01 training")
    finish(bed, training)
    unbroken(bed, training, own_faults={"pi-01": 1})


def test_kill_9_of_a_worker(bed: Bed, training: str, row: Result, unbroken: Callable[..., None]):
    """The supervisor says so at once, and another worker trains the round from its beginning."""
    row.fault = "kill -9 of a worker"
    first = worker(bed, "pi-01")
    began = time.monotonic()
    first.kill()
    row.noticed_s = since(began, lambda: "signal 9" in bed.log("pi-01"), "the supervisor's word")
    row.recovered_s = since(began, lambda: again(bed, "pi-01", first), "another worker")
    finish(bed, training)
    unbroken(bed, training, own_faults={"pi-01": 1})


def again(bed: Bed, name: str, first: psutil.Process) -> bool:
    now = bed.worker_of(name)
    return now is not None and now.pid != first.pid and bed.log(name).count("train begins") == 2


def test_kill_9_of_supervisor_and_worker(
    bed: Bed, training: str, row: Result, unbroken: Callable[..., None]
):
    """As when a Pi loses power."""
    row.fault = "kill -9 of both"
    its_worker = worker(bed, "pi-01")
    began = time.monotonic()
    bed.processes["pi-01"].kill()
    its_worker.kill()
    bed.kill("pi-01")
    row.noticed_s = since(began, lambda: state(bed, "pi-01") == "lost", "pi-01 lost")
    bed.start_agent("pi-01")
    row.recovered_s = since(began, lambda: state(bed, "pi-01") == "training", "pi-01 training")
    finish(bed, training)
    unbroken(bed, training, own_faults={"pi-01": 1})


def test_kill_9_of_the_coordinators_own_worker(
    bed: Bed, row: Result, unbroken: Callable[..., None]
):
    """In the middle of an evaluation: it is done again, and the run does not pause."""
    row.fault = "kill -9 of the coordinator's worker"
    bed.start_coordinator(FLCTL_FAULTS_PACE=str(bed.folder / "coordinator.pace"))
    for name in bed.agents:
        bed.start_agent(name)
    bed.until_ready()
    bed.pace("coordinator", 2)
    run = bed.begin(3, test_data=str(bed.data("pi-01")), evaluate="coordinator")
    wait_for(
        lambda: (bed.training_status() or {}).get("phase") == "aggregated",
        "an evaluation",
        WITHIN_S,
    )
    victim = worker(bed, "coordinator")
    began = time.monotonic()
    victim.kill()
    bed.pace("coordinator", 0)
    row.recovered_s = since(began, lambda: bed.committed(run) or bed.is_over(run), "round 1")
    assert bed.until_over(run) == "finished"
    unbroken(bed, run)


@pytest.fixture
def little_memory() -> Iterator[Path]:
    """A control group that may hold MEMORY bytes; skips where this user may make none."""
    root = Path("/sys/fs/cgroup")
    unified = (root / "cgroup.controllers").exists()
    folder = (root if unified else root / "memory") / f"flctl-faults-{os.getpid()}"
    try:
        if unified and "memory" not in (root / "cgroup.subtree_control").read_text():
            (root / "cgroup.subtree_control").write_text("+memory")
        folder.mkdir()
        limit = "memory.max" if unified else "memory.limit_in_bytes"
        (folder / limit).write_text(str(MEMORY))
        if (folder / "memory.swap.max").exists():
            (folder / "memory.swap.max").write_text("0")
    except OSError as error:
        pytest.skip(f"no control group with a memory limit can be made here: {error}")
    yield folder
    wait_for(lambda: not (folder / "cgroup.procs").read_text().strip(), "an empty group", 30)
    folder.rmdir()


def test_the_kernel_kills_a_worker_for_want_of_memory(
    bed: Bed, row: Result, unbroken: Callable[..., None], little_memory: Path
):
    """It takes the worker and not the supervisor, which says what it was and tries again."""
    row.fault = "OOM kill of a worker (cgroup limit)"
    bed.start_coordinator()
    bed.start_agent("pi-02")
    join = ("sh", "-c", f'echo $$ > {little_memory}/cgroup.procs; exec "$@"', "sh")
    bed.start_agent("pi-01", prefix=join)
    supervisor = bed.processes["pi-01"].pid
    bed.until_ready()
    bed.pace("pi-01", "eat")
    began = time.monotonic()
    run = bed.begin(2)
    row.noticed_s = since(began, lambda: "out of memory" in bed.log("pi-01"), "the reason")
    row.recovered_s = since(began, lambda: bed.committed(run), "the round")
    assert bed.until_over(run) == "finished"
    assert bed.processes["pi-01"].pid == supervisor and not bed.ended("pi-01")
    unbroken(bed, run, own_faults={"pi-01": 1})


def test_a_worker_that_hangs(bed: Bed, training: str, row: Result, unbroken: Callable[..., None]):
    """SIGSTOP for ever: the supervisor sees that it neither works nor tells, and kills it."""
    row.fault = "a worker hangs (SIGSTOP)"
    first = worker(bed, "pi-01")
    began = time.monotonic()
    first.suspend()
    row.noticed_s = since(began, lambda: "hangs" in bed.log("pi-01"), "the supervisor's word", 150)
    row.recovered_s = since(began, lambda: again(bed, "pi-01", first), "another worker", 150)
    finish(bed, training)
    unbroken(bed, training, own_faults={"pi-01": 1})


def test_a_supervisor_is_stopped_for_a_minute(
    bed: Bed, training: str, row: Result, unbroken: Callable[..., None]
):
    """It is lost after half a minute, and back when it wakes, with what its worker has done."""
    row.fault = f"supervisor stopped for {STOPPED_S:.0f} s"
    began = time.monotonic()
    bed.processes["pi-01"].send_signal(signal.SIGSTOP)
    row.noticed_s = since(began, lambda: state(bed, "pi-01") == "lost", "pi-01 lost")
    time.sleep(max(0.0, began + STOPPED_S - time.monotonic()))
    bed.processes["pi-01"].send_signal(signal.SIGCONT)
    began = time.monotonic()
    row.recovered_s = since(began, lambda: state(bed, "pi-01") != "lost", "pi-01 back")
    finish(bed, training)
    unbroken(bed, training)


def test_the_coordinator_is_stopped_for_a_minute(
    bed: Bed, training: str, row: Result, unbroken: Callable[..., None]
):
    """Agents go on with their work, notice, and are there again when it wakes."""
    row.fault = f"coordinator stopped for {STOPPED_S:.0f} s"
    silent = "no echo of its heartbeats"
    began = time.monotonic()
    bed.processes["coordinator"].send_signal(signal.SIGSTOP)
    row.noticed_s = since(
        began, lambda: silent in bed.log("pi-01") or "connection lost" in bed.log("pi-01"),
        "pi-01's word",
    )  # fmt: skip
    time.sleep(max(0.0, began + STOPPED_S - time.monotonic()))
    bed.processes["coordinator"].send_signal(signal.SIGCONT)
    began = time.monotonic()
    row.recovered_s = since(
        began,
        lambda: all(state(bed, name) not in ("lost", "unknown") for name in bed.agents),
        "all",
    )
    finish(bed, training)
    unbroken(bed, training)
