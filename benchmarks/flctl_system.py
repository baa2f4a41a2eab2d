"""flctl itself, measured like the floors: a real coordinator, K real supervisors, no learning.

    flctl_system.measure ─► coordinator process   (fleet port with CURVE, state folder, journal,
                        │                          spool, fsync)
                        └─► K supervisor processes ─► K workers (adder_worker.py)

The run starts from a model that is given, and nothing is evaluated. FLCTL_BENCH_LOG=INFO in
the environment lets all these processes log.
"""

import argparse
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any
from unittest.mock import patch

import numpy as np
import psutil
from measures import MIB, Result, peak_rss_mib, wire_bytes
from models import shapes

from flctl.agent.config import AgentConfig
from flctl.agent.main import run_agent
from flctl.coordinator.background import ThreadBackground
from flctl.coordinator.front.service import Coordinator
from flctl.coordinator.store.resume import FirstModel
from flctl.core.events import RoundCommitted, RunFailed, RunPaused, UpdateRejected
from flctl.core.metrics import DEFAULT_METRICS
from flctl.core.stream import AgentFailed, AgentLost, Published
from flctl.learning.registry import task_digest
from flctl.settings import RunSettings, parse
from flctl.transport.keypair import load_or_make
from flctl.transport.keys import Keyring
from flctl.transport.zeromq import ZeroMqHub
from flctl.wire.messages import Measures, Sums
from flctl.wire.parameters import dump
from flctl.worker.pipe import nameless_file
from flctl.worker.process import WorkerProcess

TASK = "mnist"
MEASURES = Measures(metrics=DEFAULT_METRICS, primary="loss", classes=10)
"""Only its name and digest are used."""
WORKER_IDLE_S = 20.0
"""Longer than any round, so that no worker is started twice."""
START_S = 60.0


@dataclass(frozen=True)
class Idle:
    """Means over the supervisors, once their workers are stopped."""

    rss_mib: float
    cpu_percent: float
    """Of one core."""


def measure(
    k: int, model_mb: float, folder: Path, *, rounds: int, idle_s: float
) -> tuple[Result, Idle | None]:
    """One run of `rounds` rounds below `folder`; then the supervisors for `idle_s` seconds."""
    keyring = Keyring(folder / "state" / "keys")
    for index in range(k):
        pair = load_or_make(folder / _name(index) / "agent.key")
        keyring.add(_name(index), pair.public, "agent")
    with ExitStack() as stack:
        coordinator = _start(
            stack, "coordinator", folder, agents=k, model_mb=model_mb, rounds=rounds
        )
        endpoint = _answer(coordinator)["endpoint"]
        supervisors = [
            _start(stack, "agent", folder, endpoint=endpoint, index=index) for index in range(k)
        ]
        result = Result(**_answer(coordinator))
        idle = _watch_idle([p.pid for p in supervisors], idle_s) if idle_s else None
        coordinator.kill()  # First, or it complains of lost agents.
        coordinator.wait()
        return result, idle


def _watch_idle(pids: list[int], idle_s: float) -> Idle:
    processes = [psutil.Process(pid) for pid in pids]
    until = time.monotonic() + WORKER_IDLE_S + START_S
    while any(process.children() for process in processes):
        if time.monotonic() > until:
            raise RuntimeError("the workers of idle agents were not stopped")
        time.sleep(0.5)
    before = [_cpu_s(process) for process in processes]
    began = time.monotonic()
    time.sleep(idle_s)
    passed_s = time.monotonic() - began
    used = [_cpu_s(p) - b for p, b in zip(processes, before, strict=True)]
    return Idle(
        rss_mib=mean(process.memory_info().rss for process in processes) / MIB,
        cpu_percent=100 * mean(used) / passed_s,
    )


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _name(index: int) -> str:
    return f"agent-{index:02d}"


def _start(stack: ExitStack, role: str, folder: Path, **options: object) -> "subprocess.Popen[str]":
    command = [sys.executable, __file__, role, "--folder", str(folder)]
    for name, value in options.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    # The supervisor's worker is found as a module beside this file.
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    stack.callback(process.wait)
    stack.callback(process.kill)
    return process


def _answer(process: "subprocess.Popen[str]") -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"the coordinator ended with exit code {process.wait()}")
    answer: dict[str, Any] = json.loads(line)
    return answer


class GivenModel:
    """Stands for the coordinator's evaluator: makes a first model without learning anything."""

    def __init__(self, model_mb: float) -> None:
        self._model_mb = model_mb

    def initialise(self, given: dict[str, object], where: str) -> FirstModel:
        draw = np.random.default_rng(1)
        fd = nameless_file("model")
        tensors = {
            name: ("F32", draw.standard_normal(shape, dtype=np.float32))
            for name, shape in shapes(self._model_mb).items()
        }
        digest, size = dump(fd, tensors)
        return FirstModel(parse(given, where), task_digest(TASK), MEASURES, digest, size, fd)

    def evaluate(self, _model: Path, _settings: RunSettings) -> dict[str, Sums]:
        return {}

    def rest(self) -> None:
        pass

    def close(self) -> None:
        pass


class Stopwatch:
    """Watches the coordinator's events: the time from commit to commit."""

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds
        self.rounds_s: list[float] = []
        self._last = 0.0

    def start(self) -> None:
        self._last = time.perf_counter()

    def on_event(self, told: Published) -> None:
        match told.event:
            case RoundCommitted():
                now = time.perf_counter()
                self.rounds_s.append(now - self._last)
                self._last = now
            case RunPaused() | RunFailed() | UpdateRejected() | AgentFailed() | AgentLost():
                raise RuntimeError(f"the run did not go well: {told}")

    @property
    def done(self) -> bool:
        return len(self.rounds_s) == self.rounds


def coordinate(options: argparse.Namespace) -> None:
    keyring = Keyring(options.folder / "state" / "keys")
    state = options.folder / "state"
    hub = ZeroMqHub("127.0.0.1:0", keyring.server, keyring.authorise, control=state)
    disk, thinking = ThreadBackground("disk", hub.wake), ThreadBackground("thinking", hub.wake)
    coordinator = Coordinator(state, hub, keyring, GivenModel(options.model_mb), disk, thinking)
    stopwatch = Stopwatch(options.rounds)
    coordinator.watchers.append(stopwatch.on_event)
    try:
        _say({"endpoint": hub.endpoint})
        _until(coordinator, lambda: _ready(coordinator) == options.agents)
        before = wire_bytes()

        def begun(_run: str | None, error: BaseException | None) -> None:
            if error is not None:
                raise error

        stopwatch.start()
        coordinator.runs.start(_settings(options), "the benchmark", "fleet", begun)
        _until(coordinator, lambda: stopwatch.done)
        result = Result(stopwatch.rounds_s, peak_rss_mib(), wire_bytes() - before)
        coordinator.watchers.remove(stopwatch.on_event)
        _say(asdict(result))
        coordinator.run()  # Idle agents need somebody to talk to; ended by a signal.
    finally:
        coordinator.close()


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "task": TASK,
        "rounds": options.rounds,
        "agents": [_name(index) for index in range(options.agents)],
        "quorum": options.agents if options.agents > 1 else 1.0,
        "evaluate": "none",
    }


def _ready(coordinator: Coordinator) -> int:
    return sum(member.ready for member in coordinator.roster.connected())


def _until(coordinator: Coordinator, done: Callable[[], bool]) -> None:
    while not done():
        coordinator.pause(0.25)


def supervise(options: argparse.Namespace) -> None:
    state = options.folder / _name(options.index)
    server = Keyring(options.folder / "state" / "keys").server
    config = AgentConfig(
        coordinator=options.endpoint,
        server_key=server.public,
        state=state,
        tasks=(TASK,),
        worker_idle_s=WORKER_IDLE_S,
    )
    worker = partial(WorkerProcess, module="adder_worker")
    with patch("flctl.agent.main.WorkerProcess", worker):
        run_agent(config, exit_with_parent=True)


def _say(message: dict[str, object]) -> None:
    print(json.dumps(message), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=["coordinator", "agent"])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--agents", type=int, default=3)
    parser.add_argument("--model-mb", type=float, default=1.72)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--endpoint")
    parser.add_argument("--index", type=int, default=0)
    options = parser.parse_args()
    logging.basicConfig(level=os.environ.get("FLCTL_BENCH_LOG", "ERROR"))
    if options.role == "coordinator":
        coordinate(options)
    else:
        supervise(options)


if __name__ == "__main__":
    main()
