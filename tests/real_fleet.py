"""A real fleet on this machine: `flctl coordinator` and `flctl agent` as processes."""

import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil

WITHIN_S = 240.0
"""What is waited for on a busy machine: it says that something hangs, not that it is slow."""
FLCTL = [sys.executable, "-m", "flctl"]
QUIET = {**os.environ, "NO_COLOR": "1", "COLUMNS": "200", "PYTHONUNBUFFERED": "1"}


def wait_for(condition: Callable[[], Any], what: str, within_s: float = WITHIN_S) -> Any:
    """The first true value of `condition`; fails after `within_s`."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        if value := condition():
            return value
        time.sleep(0.1)
    raise AssertionError(f"not within {within_s} s: {what}")


def flctl(*arguments: object, within_s: float = WITHIN_S) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*FLCTL, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=within_s,
        env=QUIET,
        check=False,
    )


def json_lines(text: str) -> list[dict[str, Any]]:
    """Of the whole lines: the last one of a log may still be in the middle of being written."""
    lines = text.splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("\n")]


def free_port() -> int:
    """To be bound later, by another process: the kernel itself gives these to no socket."""
    while True:
        port = random.randrange(20_000, 32_000)
        with contextlib.suppress(OSError), socket.socket() as sock:
            sock.bind(("127.0.0.1", port))
            return port


def beats(path: Path, records: list[int], each: int = 60, seed: int = 0) -> Path:
    """A small file of made-up beats that the task `ecg` reads."""
    draw = np.random.default_rng(seed)
    count = each * len(records)
    y = draw.integers(0, 5, count)
    x = draw.normal(0, 40, (count, 187))
    x[np.arange(count), 30 + 20 * y] += 800  # the class shows: it can be learnt
    np.savez(
        path,
        X=x.astype(np.int16),
        y=y.astype(np.int8),
        record=np.repeat(records, each),
        split=(np.arange(count) % 4 == 3).astype(np.int8),
    )
    return path


class RealFleet:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.data = beats(folder / "test.npz", [1, 2, 3])
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.address = ""
        self.server_key = ""

    def start_coordinator(self) -> None:
        bind = self.address or "127.0.0.1:0"
        log = self.folder / "coordinator.log"
        before = log.stat().st_size if log.exists() else 0
        where = ("--state", self.state, "--bind", bind, "--test-data", self.data)
        self._spawn("coordinator", log, "coordinator", *where)

        def told() -> str:
            """The address that this one has printed, not the one before it."""
            found = re.search(rb"(?m)^coordinator  (.*)\n", log.read_bytes()[before:])
            return found[1].decode().strip() if found else ""

        self.address = wait_for(told, f"the coordinator: {log}")
        keys = flctl("keys", "list", "--state", self.state, "--json")
        self.server_key = json.loads(keys.stdout)["server_key"]

    def start_agent(
        self, name: str, *options: object, token: str | None = None, task: str = "ecg"
    ) -> None:
        """With beats of its own; of another task than `ecg` with what ships with the task."""
        if task == "ecg":
            data = self.folder / f"{name}.npz"
            if not data.exists():
                beats(data, [int(name[-2:]) + 10], each=80, seed=int(name[-2:]))
            options = ("--data", data, *options)
        arguments: list[object] = [
            "agent", "--coordinator", self.address, f"--server-key={self.server_key}",
            "--name", name, "--state", self.folder / name, "--task", task,
            "--threads", 1, *options,
        ]  # fmt: skip
        if token is not None:
            path = self.folder / f"{name}.token"  # the agent may read it after the next one starts
            path.write_text(token)
            arguments += ["--join-token-file", path]
        self._spawn(name, self.log_path(name), *arguments)

    def token(self, *options: object) -> str:
        return flctl("keys", "token", "--state", self.state, *options).stdout.strip()

    def log_path(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def log(self, name: str) -> str:
        path = self.log_path(name)
        return path.read_text() if path.exists() else ""

    def status(self) -> dict[str, dict[str, Any]]:
        found = flctl("status", "--state", self.state, "--json")
        assert found.returncode == 0, found.stderr
        return {agent["name"]: agent for agent in json.loads(found.stdout)}

    def until_ready(self, *names: str) -> None:
        def ready() -> bool:
            agents = self.status()
            return all(agents.get(name, {}).get("state") == "ready" for name in names)

        wait_for(ready, f"{names} ready; their logs are in {self.folder}")

    def train(self, *options: object, **more: Any) -> subprocess.CompletedProcess[str]:
        return flctl("train", "--state", self.state, "--task", "ecg", "--json", *options, **more)

    def start_training(self, *options: object) -> subprocess.Popen[bytes]:
        log = self.folder / "train.log"
        log.unlink(missing_ok=True)
        return self._spawn(
            "train", log, "train", "--state", self.state, "--task", "ecg", "--json", *options
        )

    def start(self, name: str, log: Path, *arguments: object) -> subprocess.Popen[bytes]:
        """Any command, which goes on beside the test."""
        return self._spawn(name, log, *arguments)

    def events(self) -> list[dict[str, Any]]:
        return json_lines((self.folder / "train.log").read_text())

    def named(self, event: str) -> list[dict[str, Any]]:
        return [e for e in self.events() if e["event"] == event]

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        process = self.processes.pop(name)
        process.send_signal(number)
        process.wait(20)

    def worker_of(self, name: str) -> psutil.Process | None:
        children = psutil.Process(self.processes[name].pid).children()
        return children[0] if children else None

    def close(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.terminate()
        for process in self.processes.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _spawn(self, name: str, log: Path, *arguments: object) -> subprocess.Popen[bytes]:
        with log.open("ab") as out:
            process = subprocess.Popen(
                [*FLCTL, *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=QUIET,
            )
        self.processes[name] = process
        return process
