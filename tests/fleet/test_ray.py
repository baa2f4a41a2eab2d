"""--engine ray: a cluster of two nodes on this machine, one of which is killed."""

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from real_fleet import WITHIN_S, wait_for

from flctl.coordinator.store.folder import LAST
from flctl.fleet.site import SiteFacts

RUN = ("--task", "ecg", "--virtual", 8, "--rounds", 6, "--seed", 3,
       "--compression", "topk", "--partition", "dirichlet")  # fmt: skip
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
WATCHFUL = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_worker_niceness": "0",
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_worker_register_timeout_seconds": "240",
}
"""A dead node is noticed after seconds, not half a minute; a worker has its share of the cores, and
does not end because others fill the machine's memory."""


class TwoNodes:
    """Each with one CPU, so that a worker of each has a part in the run."""

    def __init__(self, folder: str) -> None:
        self.workers_folder = Path(folder) / "tmp"
        self.workers_folder.mkdir()
        own = {"TMPDIR": str(self.workers_folder), "RAY_TMPDIR": folder}
        self._log = (Path(folder) / "log.txt").open("wb")
        self._started = psutil.Popen(
            [sys.executable, Path(__file__).with_name("ray_nodes.py")],
            env={**os.environ, **QUIET, **WATCHFUL, **own},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            start_new_session=True,
        )
        try:
            told = json.loads(self._started.stdout.readline())
        except ValueError as error:
            self.close()
            raise AssertionError(Path(self._log.name).read_text()) from error
        self.address = told["address"]
        self.nodes = [psutil.Process(number) for number in told["nodes"]]

    def kill(self, number: int) -> None:
        """All processes of a node at once, as a power cut does."""
        end(self.nodes.pop(number))

    def close(self) -> None:
        with self._log, suppress(OSError, subprocess.TimeoutExpired):
            self._started.communicate(timeout=WITHIN_S)
        end(self._started)

    def left_behind(self) -> list[str]:
        """Workers of a run, and their folders."""
        found = [str(path) for path in self.workers_folder.glob("flctl-ray-*")]
        for process in (process for node in self.nodes for process in family(node)):
            with suppress(psutil.NoSuchProcess):
                found += [name for name in [process.name()] if name.startswith("ray::Worker")]
        return found


def family(process: psutil.Process) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return [process, *process.children(recursive=True)]
    return []


def end(process: psutil.Process) -> None:
    found = family(process)
    for each in found:
        with suppress(psutil.NoSuchProcess):
            each.send_signal(signal.SIGKILL)
    psutil.wait_procs(found, timeout=WITHIN_S)


@pytest.fixture(scope="module")
def cluster() -> Iterator[TwoNodes]:
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # its sockets' paths have to be short
    try:
        with closing(TwoNodes(folder)) as made:
            yield made
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def undo() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


class Simulated:
    """`flctl train`, its events as they come. Its pipe holds a page: the run waits for its reader,
    and is never more than two rounds ahead."""

    def __init__(self, state: Path, undo: ExitStack, *args: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "flctl", "train", "--json", *map(str, args)],
            env={**os.environ, **QUIET, "FLCTL_STATE": str(state)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        undo.callback(self.process.kill)
        assert self.process.stdout is not None
        fcntl.fcntl(self.process.stdout, fcntl.F_SETPIPE_SZ, 4096)
        self.events: list[dict[str, Any]] = []

    def until(self, word: str, round_id: int | None = None) -> dict[str, Any]:
        assert self.process.stdout is not None and self.process.stderr is not None
        for line in self.process.stdout:
            event = json.loads(line)
            self.events.append(event)
            if event["event"] == word and round_id in (None, event.get("round")):
                return event
        raise AssertionError(f"no {word}: {self.process.stderr.read()}")

    def end(self) -> str:
        """What it says on stderr."""
        return self.process.communicate()[1]


def test_a_cluster_gives_the_same_bytes_whatever_happens(
    flctl: Any, tmp_path: Path, cluster: TwoNodes, undo: ExitStack
):
    """After Ctrl-C, when a node is killed, after kill -9 of the run, and without the cluster; the
    replay is the same.

    Updates with top-k, which needs what each client has not sent before."""
    ray = ("--engine", "ray", "--ray-address", cluster.address)
    state = tmp_path / "state"
    assert flctl("train", *RUN).code == 0
    (plain,) = (state / "runs").iterdir()

    stopped = Simulated(state, undo, *RUN, *ray)
    run = stopped.until("update", 1)["run"]
    stopped.process.send_signal(signal.SIGINT)
    assert "resume with" in stopped.end()
    wait_for(lambda: not cluster.left_behind(), "the workers to end")

    killed = Simulated(state, undo, "--resume", run)
    killed.until("update", 2)
    cluster.kill(1)
    killed.until("update", 3)
    killed.process.kill()
    killed.end()
    wait_for(lambda: not cluster.left_behind(), "the workers to end")

    assert flctl("train", "--resume", run, "--engine", "processes").code == 0
    made = state / "runs" / run
    assert (made / LAST).read_bytes() == (plain / LAST).read_bytes()
    assert flctl("runs", "replay", run).code == 0


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("127.0.0.1:1", "no Ray cluster at 127.0.0.1:1 ("),
        ("ray://127.0.0.1:1", "run flctl on a node of the cluster"),
    ],
)
def test_without_a_cluster_there_is_one_line_and_no_run(
    flctl: Any, tmp_path: Path, address: str, says: str
):
    outcome = flctl("train", *RUN, "--engine", "ray", "--ray-address", address)
    assert outcome.code == 2
    assert says in outcome.complaint
    assert not (tmp_path / "state" / "runs").exists()


def test_what_answers_and_is_no_cluster_is_one_line_and_no_run(flctl: Any, tmp_path: Path):
    """ray itself would wait for it a quarter of an hour."""
    with socket.create_server(("", 0)) as there, ThreadPoolExecutor() as pool:

        def answer() -> None:
            connection, _ = there.accept()
            with connection:
                connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
                connection.recv(100)

        pool.submit(answer)
        address = f"127.0.0.1:{there.getsockname()[1]}"
        outcome = flctl("train", *RUN, "--engine", "ray", "--ray-address", address)
    assert outcome.code == 2
    assert f"no Ray cluster at {address} (something else answers)" in outcome.complaint
    assert not (tmp_path / "state" / "runs").exists()


@pytest.mark.parametrize(
    ("there", "says"),
    [
        ({"host": "pc2", "node": "n2"}, ""),
        ({"flctl": "0.0.9"}, "flctl 0.0.9, here 0.1.0"),
        ({"machine": "aarch64 torch 2.9.1"}, "torch aarch64 torch 2.9.1, here x86_64 torch 2.13.0"),
        ({"code": "cd" * 32}, f"task code {'cd' * 20}, here {'ab' * 20}"),
        ({"data": "cd" * 32}, f"data {'cd' * 20}, here {'ef' * 20}"),
    ],
)
def test_a_node_must_have_what_is_here(there: dict[str, str], says: str):
    here = {"flctl": "0.1.0", "machine": "x86_64 torch 2.13.0", "code": "ab" * 32,
            "data": "ef" * 32, "host": "pc1"}  # fmt: skip
    assert SiteFacts(**here).different(SiteFacts(**{**here, **there})) == says


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--local", 2, "--engine", "ray"), "engine requires virtual"),
        (("--virtual", 2, "--ray-address", "h:1"), "ray_address is for engine ray"),
        (("--virtual", 2, "--engine", "ray", "--device", "cuda"), "engine ray is for CPUs"),
    ],
)
def test_what_does_not_fit_is_refused(flctl: Any, args: tuple[object, ...], says: str):
    outcome = flctl("train", "--task", "ecg", *args)
    assert outcome.code == 2
    assert says in outcome.complaint
