"""The same systems as a server and clients of their own: real processes and sockets on one machine.

    python benchmarks/compare/fleet.py flctl --clients 3
    python benchmarks/compare/fleet.py flwr --clients 10 --kill server

The network of McMahan et al. 2017 (1.66 million parameters); each client trains six batches a
round, so that what is seen is the system. Writes results/fleet-SYSTEM-CLIENTS-KILL.json: seconds
of the first round (from the command's start) and of the others (their median), memory (PSS) of
the server's processes and of one idle client's. `--kill` ends the server, or one client, with
SIGKILL in the third round, starts it again after five seconds, and looks whether the run comes to
its end.
"""

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import run

ROUNDS, LIMIT_S, AGAIN_S = 6, 120.0, 5.0


class Fleet:
    """What is common: processes with a log each, the events of a run, memory."""

    def __init__(self, folder: Path, clients: int, mnist: str, system: str) -> None:
        self.folder, self.clients, self.mnist = folder, clients, mnist
        self.programs = run.environment(system)
        self.processes: dict[str, psutil.Popen] = {}
        self.environment = {
            **os.environ, "PATH": f"{self.programs}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1",
            "PYTHONPATH": f"{run.HERE}:{run.HERE / 'systems'}", "JOB": "fleet", "SEED": "1",
            "MNIST": mnist, "OUT": str(folder), "NODES": str(clients),
            "FLWR_HOME": str(folder / "flwr"), "FLWR_TELEMETRY_ENABLED": "0",
            "FLCTL_STATE": str(folder / "state"), "PYTHONUNBUFFERED": "1",
        }  # fmt: skip
        self.commands: list[str] = []

    def start(self, name: str, *command: object) -> None:
        words = [str(word) for word in command]
        if name not in self.processes:
            said = " ".join(words).replace(str(self.folder), "$OUT")
            self.commands.append(said.replace(f"{run.HERE}/", ""))
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = psutil.Popen(
                [str(self.programs / words[0]), *words[1:]], stdout=log, stderr=log,
                env=self.environment, cwd=self.folder, start_new_session=True,
            )  # fmt: skip

    def said(self, program: str, *args: str) -> str:
        """What a command prints."""
        command = [self.programs / program, *args]
        how = {"env": self.environment, "check": False, "capture_output": True, "text": True}
        return str(subprocess.run(command, **how).stdout)  # noqa: PLW1510 - said in how

    def log(self, name: str) -> str:
        path = self.folder / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def memory(self, name: str) -> float:
        """MiB of a process and those that it has started."""
        total = 0
        for each in run.family(self.processes[name]):
            try:
                total += each.memory_full_info().pss
            except psutil.Error:
                continue
        return round(total / run.MIB, 1)

    def kill(self, name: str) -> None:
        """The process alone, as `kill -9` does; what it has started may go on."""
        self.processes[name].kill()
        self.processes[name].wait()

    def close(self) -> None:
        for process in self.processes.values():
            run.end(process)


class Flctl(Fleet):
    name = "flctl"

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        code = "import job, sys, numpy as np; x, y = job.images(sys.argv[1], 'train'); rows = " \
            "job.shards(1000, 1); [np.savez(f'share-{i}.npz', x=x[rows[i]], y=y[rows[i]]) " \
            "for i in range(int(sys.argv[2]))]"  # fmt: skip
        command = [self.programs / "python", "-c", code, self.mnist, str(self.clients)]
        subprocess.run(command, check=True, cwd=self.folder, env=self.environment)
        self.port = free_port()

    def open(self) -> None:
        token = self.said("flctl", "keys", "token", "--ttl", "1h", "--uses", str(self.clients))
        self.environment["FLCTL_JOIN_TOKEN"] = token.split()[0]
        self.server()
        wait_for(lambda: "server key" in self.log("server"))
        words = next(line for line in self.log("server").splitlines() if "server key" in line)
        self.key = words.split()[2]
        for number in range(self.clients):
            self.client(number)
        status = ("flctl", "status", "--json")

        def ready() -> bool:
            return self.said(*status).count('"ready"') >= self.clients

        wait_for(ready)

    def server(self) -> None:
        self.start("server", "flctl", "coordinator", "--bind", f"127.0.0.1:{self.port}")

    def client(self, number: int) -> None:
        self.start(
            f"client-{number}", "flctl", "agent", "--coordinator", f"127.0.0.1:{self.port}",
            "--server-key", self.key, "--name", f"pi-{number}", "--threads", 1, "--task", "own",
            "--state", self.folder / f"agent-{number}",
            "--data", self.folder / f"share-{number}.npz",
        )  # fmt: skip

    def train(self) -> None:
        self.start(
            "run", "flctl", "train", "--task", "own", "--rounds", ROUNDS, "--batch-size", 10,
            "--lr", 0.1, "--evaluate", "none", "--quorum", 1, "--json",
        )  # fmt: skip

    def done(self, line: str) -> int | None:
        """The round that a line of the run's log ends."""
        if line.startswith('{"event":"round"'):
            return int(json.loads(line)["round"])
        return None

    def over(self) -> bool:
        """Also of a run that goes on while its watcher has lost the server."""
        return '"finished"' in self.said("flctl", "runs", "list", "--json")


class Flwr(Fleet):
    name = "flwr"

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.port = free_port()
        home = self.folder / "flwr"
        home.mkdir()
        (home / "config.toml").write_text(
            f'[superlink]\ndefault = "here"\n\n[superlink.here]\n'
            f'address = "127.0.0.1:{self.port}"\ninsecure = true\n'
        )

    def open(self) -> None:
        self.server()
        wait_for(lambda: answers(self.port))
        for number in range(self.clients):
            self.client(number)
        time.sleep(10)

    def server(self) -> None:
        self.start(
            "server", "flower-superlink", "--insecure", "--database", self.folder / "state.db",
            "--port", self.port, "--disable-runtime-dependency-installation",
        )  # fmt: skip

    def client(self, number: int) -> None:
        self.start(
            f"client-{number}", "flower-supernode", "--insecure",
            "--superlink", f"127.0.0.1:{self.port}", "--port", free_port(),
            "--node-config", f"partition-id={number} num-partitions={self.clients}",
        )  # fmt: skip

    def train(self) -> None:
        self.start("run", "flwr", "run", run.HERE / "systems", "here", "--stream")

    def done(self, line: str) -> int | None:
        if "[ROUND " in line:
            return int(line.partition("[ROUND ")[2].partition("/")[0]) - 1
        return ROUNDS if "Strategy execution finished" in line else None

    def over(self) -> bool:
        return "finished:completed" in self.said("flwr", "list", "here", "--format", "json")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_for(look: Any, within_s: float = LIMIT_S) -> None:
    until = time.monotonic() + within_s
    while not look():
        if time.monotonic() > until:
            raise TimeoutError(f"not within {within_s} s")
        time.sleep(0.1)


@contextmanager
def watched(fleet: Fleet) -> Iterator[list[float]]:
    """The server's largest memory so far, in a list of one."""
    peak, ended = [0.0], threading.Event()

    def look() -> None:
        while not ended.wait(0.2):
            peak[0] = max(peak[0], fleet.memory("server"))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()


def measure(fleet: Any, kill: str) -> dict[str, Any]:
    fleet.open()
    time.sleep(5)
    row: dict[str, Any] = {"idle_client_mib": fleet.memory("client-0"),
                           "idle_server_mib": fleet.memory("server")}  # fmt: skip
    ends: dict[int, float] = {}
    began, seen, killed = time.monotonic(), 0, 0.0
    fleet.train()
    with watched(fleet) as peak:
        while time.monotonic() - began < LIMIT_S and ROUNDS not in ends:
            lines = fleet.log("run").splitlines()
            for line in lines[seen:]:
                if (number := fleet.done(line)) is not None and number > 0:
                    ends.setdefault(number, time.monotonic() - began)
            seen = len(lines)
            victim = {"client": "client-0"}.get(kill, kill)
            if kill != "none" and 2 in ends and not killed:
                time.sleep(0.3)  # in the middle of the third
                fleet.kill(victim)
                time.sleep(AGAIN_S)
                fleet.server() if kill == "server" else fleet.client(0)
                killed = time.monotonic()
            if killed and time.monotonic() - killed > AGAIN_S and fleet.over():
                break
            time.sleep(0.02 if not killed else 0.5)
    order = [ends[number] for number in sorted(ends)]
    later = [b - a for a, b in pairwise(order)]
    row |= {
        "first_round_s": round(order[0], 2) if order else None,
        "round_s": round(statistics.median(later), 3) if later and kill == "none" else None,
        "server_peak_mib": peak[0], "rounds_seen": len(order),
        "finished": ROUNDS in ends or bool(killed and fleet.over()),
    }  # fmt: skip
    if not row["finished"]:
        row["words"] = {name: fleet.log(name).splitlines()[-6:] for name in ("run", "server")}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("system", choices=["flctl", "flwr"])
    parser.add_argument("--clients", type=int, default=3)
    parser.add_argument("--kill", choices=["none", "server", "client"], default="none")
    parser.add_argument("--mnist", default=str(run.ROOT.parent / "shared" / "data" / "mnist"))
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    run.RESULTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="fleet-") as folder:
        made = {"flctl": Flctl, "flwr": Flwr}[options.system]
        fleet = made(Path(folder), options.clients, options.mnist, options.system)
        try:
            row = measure(fleet, options.kill)
        finally:
            fleet.close()
    name = f"fleet-{options.system}-{options.clients}-{options.kill}"
    about = {
        "fleet": options.system, "clients": options.clients, "kill": options.kill,
        "version": run.version(fleet.programs, options.system), "machine": run.machine(),
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "commands": [*fleet.commands[:2], fleet.commands[-1]],
    }  # fmt: skip
    (run.RESULTS / f"{name}.json").write_text(json.dumps({**about, **row}, indent=1) + "\n")
    print(name, row)


if __name__ == "__main__":
    main()
