"""The test bed: `flctl coordinator` and `flctl agent` as processes that faults befall.

Everything is in one folder: `state`, a folder for each agent, `tmp` for temporary files. All
processes carry a mark in their environment, by which those that are left over are found.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
from real_fleet import free_port, wait_for

from flctl.fleet.console import RemoteRuns
from flctl.transport.keypair import load_or_make
from flctl.transport.keys import Keyring
from flctl.transport.zeromq import ControlLink, control_address

UNDER = Path(__file__).parent / "under"
MARK = "FLCTL_FAULTS_BED"
FLCTL = (sys.executable, "-m", "flctl")
OVER = ("finished", "paused", "failed", "stopped")
WITHIN_S = 240.0
NO_LIMITS = ("--min-examples", 1, "--min-batch-size", 1, "--max-rounds-per-hour", 0)
"""The table trains on batches of four, and for hours."""
"""Nothing here takes so long; a machine that many use may be ten times as slow."""


class Bed:
    def __init__(self, folder: Path, agents: Sequence[str] = ("pi-01", "pi-02")) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.mark = uuid.uuid4().hex
        self.port = free_port()
        self.dialled = f"127.0.0.1:{self.port}"
        """Where agents dial; something may stand in between."""
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.killed: list[subprocess.Popen[bytes]] = []
        self.agents = tuple(agents)
        (folder / "tmp").mkdir()
        keyring = Keyring(self.state / "keys")
        self.server_key = keyring.server.public
        for number, name in enumerate(self.agents, start=1):
            self.enrol(name, keyring)
            numbers = [number + step / 8 for step in range(6 + number)]
            self.data(name).write_text("".join(f"{x}\n" for x in numbers))

    # Who there is ---------------------------------------------------------------------

    def enrol(self, name: str, keyring: Keyring | None = None) -> None:
        pair = load_or_make(self.folder / name / "agent.key")
        (keyring or Keyring(self.state / "keys")).add(name, pair.public, "agent")

    def data(self, name: str) -> Path:
        return self.folder / f"{name}.txt"

    def log_path(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def log(self, name: str) -> str:
        path = self.log_path(name)
        return path.read_text(errors="replace") if path.exists() else ""

    def pace(self, name: str, pace: float | str) -> None:
        """How long an agent sleeps before each batch, or "eat": see `fault_tasks`."""
        path = self.folder / f"{name}.pace"
        new = path.with_suffix(".new")
        new.write_text(str(pace))
        new.replace(path)

    # Processes ------------------------------------------------------------------------

    def environment(self, faults: dict[str, Any] | None, **more: str) -> dict[str, str]:
        """`faults` are the settings of `fault_points`."""
        given = {
            **os.environ,
            "PYTHONPATH": str(UNDER),
            "TMPDIR": str(self.folder / "tmp"),
            "NO_COLOR": "1",
            "COLUMNS": "200",
            "PYTHONUNBUFFERED": "1",
            "OMP_NUM_THREADS": "1",
            "TORCHINDUCTOR_CACHE_DIR": str(self.folder / "torch"),  # its own, and never removed
            MARK: self.mark,
            **more,
        }
        if faults:
            given["FLCTL_FAULTS"] = json.dumps(faults)
        return given

    def start(
        self,
        name: str,
        arguments: Sequence[object],
        faults: dict[str, Any] | None = None,
        prefix: Sequence[object] = (),
        **more: str,
    ) -> subprocess.Popen[bytes]:
        """`flctl ARGUMENTS`; `prefix` is what comes before it on the command line."""
        with self.log_path(name).open("ab") as out:
            process = subprocess.Popen(
                [*map(str, prefix), *FLCTL, *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=self.environment(faults, **more),
            )
        self.processes[name] = process
        return process

    def start_coordinator(
        self,
        faults: dict[str, Any] | None = None,
        *options: object,
        ready: bool = True,
        **more: Any,
    ) -> None:
        before = self.log("coordinator").count("server key ")
        bind = f"127.0.0.1:{self.port}"
        arguments = ("coordinator", "--state", self.state, "--bind", bind, *options)
        self.start("coordinator", arguments, faults, **more)
        if ready:
            wait_for(
                lambda: self.log("coordinator").count("server key ") > before,
                f"the coordinator: {self.log_path('coordinator')}",
                WITHIN_S,
            )

    def start_agent(
        self, name: str, faults: dict[str, Any] | None = None, *options: object, **more: Any
    ) -> None:
        arguments = (
            "agent", "--coordinator", self.dialled, f"--server-key={self.server_key}",
            "--name", name, "--state", self.folder / name, "--data", self.data(name),
            "--task", "specks", "--task", "boulder", "--task", "hermit", "--task", "mountain",
            "--threads", 1,
            *NO_LIMITS, *options,
        )  # fmt: skip
        pace = str(self.folder / f"{name}.pace")
        self.start(name, arguments, faults, FLCTL_FAULTS_PACE=pace, **more)

    def start_all(self) -> None:
        self.start_coordinator()
        for name in self.agents:
            self.start_agent(name)
        self.until_ready()

    def kill(self, name: str, number: int = signal.SIGKILL, within_s: float = 30.0) -> int:
        """Its exit status."""
        process = self.processes.pop(name)
        self.killed.append(process)
        if process.poll() is None:
            process.send_signal(number)
        return process.wait(within_s)

    def ended(self, name: str) -> bool:
        return self.processes[name].poll() is not None

    def bury(self, name: str, within_s: float = WITHIN_S) -> int:
        """Wait for the end of a process that a fault ends."""
        wait_for(lambda: self.ended(name), f"the end of {name}", within_s)
        return self.kill(name)

    def worker_of(self, name: str) -> psutil.Process | None:
        with contextlib.suppress(psutil.NoSuchProcess):
            return next(iter(psutil.Process(self.processes[name].pid).children()), None)
        return None

    def close(self) -> None:
        """End everything in order, as an operator would."""
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
        for process in self.processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)

    def destroy(self) -> None:
        """Nothing is left for the next test, whatever has happened."""
        for process in marked(self.mark):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        for process in (*self.processes.values(), *self.killed):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)

    # Runs -----------------------------------------------------------------------------

    def status(self) -> dict[str, dict[str, Any]]:
        return {agent["name"]: agent for agent in self.whole_status()["agents"]}

    def console(self) -> RemoteRuns:
        """Of an operator beside the coordinator."""
        return Asker(self)

    def whole_status(self) -> dict[str, Any]:
        with self.console() as console:
            return console.status()

    def training_status(self) -> dict[str, Any] | None:
        """Of the run in progress."""
        found: dict[str, Any] | None = self.whole_status()["coordinator"]["run"]
        return found

    def until_ready(self, *names: str) -> None:
        wanted = names or self.agents

        def ready() -> bool:
            found = self.status()
            return all(found.get(name, {}).get("state") == "ready" for name in wanted)

        wait_for(ready, f"{wanted} ready", WITHIN_S)

    def begin(self, rounds: int, **settings: Any) -> str:
        """Begin a run of all agents; its name."""
        given = {
            "task": "specks", "rounds": rounds, "batch_size": 4, "lr": 0.5, "quorum": 1.0,
            "agents": list(self.agents), "deadline_s": 120.0, "wait_s": 60.0, **settings,
        }  # fmt: skip
        with self.console() as console:
            return console.start(given, "the test")

    def resume(self, run: str) -> None:
        with self.console() as console:
            console.resume(run)

    def stop(self, run: str) -> None:
        """On an operator's word."""
        with self.console() as console:
            console.stop(run)
        assert self.until_over(run) == "stopped"

    def runs(self) -> list[str]:
        """Names of the runs, oldest first."""
        folders = (self.state / "runs").glob("[!.]*/run.toml")
        return [path.parent.name for path in sorted(folders, key=lambda p: p.stat().st_mtime_ns)]

    def journal(self, run: str) -> list[dict[str, Any]]:
        """Its whole lines."""
        try:
            text = (self.state / "runs" / run / "journal.jsonl").read_text(errors="replace")
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in text.split("\n")[:-1]]

    def events(self, run: str, event: str) -> list[dict[str, Any]]:
        return [line for line in self.journal(run) if line["event"] == event]

    def committed(self, run: str) -> int:
        return len(self.events(run, "round"))

    def until_round(self, run: str, number: int, within_s: float = WITHIN_S) -> None:
        wait_for(lambda: self.committed(run) >= number, f"round {number} of {run}", within_s)

    def until_training(self, *names: str) -> None:
        wait_for(
            lambda: all(self.status()[name]["state"] == "training" for name in names),
            f"{names} training",
            WITHIN_S,
        )

    def is_over(self, run: str) -> str | None:
        """How the run ended, if it did; one that waits for agents continues by itself."""
        lines = self.journal(run)
        over = lines and lines[-1]["event"] in OVER and not lines[-1].get("awaits")
        return lines[-1]["event"] if over else None

    def until_over(self, run: str, within_s: float = WITHIN_S) -> str:
        return str(wait_for(lambda: self.is_over(run), f"the end of {run}", within_s))

    def flctl(
        self, *arguments: object, within_s: float = 180.0
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*FLCTL, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=within_s,
            env=self.environment(None),
            check=False,
        )

    def replay(self, run: str) -> subprocess.CompletedProcess[str]:
        """Compute the run again without a fault, and compare every round."""
        lines = self.events(run, "round")
        took_part = sorted({agent for line in lines for agent in line["participants"]})
        data = [word for name in took_part for word in ("--data", f"{name}={self.data(name)}")]
        return self.flctl("runs", "replay", run, "--state", self.state, *data)


class Died(Exception):
    """The coordinator, while it was asked something."""


class Asker(RemoteRuns):
    """Does not wait for the answer of a coordinator that is dead."""

    def __init__(self, bed: Bed) -> None:
        super().__init__(ControlLink(control_address(bed.state)), str(bed.state), state=bed.state)
        self._bed = bed

    def _messages(self, timeout_s: float) -> Any:
        if self._bed.ended("coordinator"):
            raise Died
        return super()._messages(min(timeout_s, 0.1))


def marked(mark: str) -> list[psutil.Process]:
    """Living processes that were started, by whomever, from a bed."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found
