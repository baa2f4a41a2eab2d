"""The systems of `fleet.py`: how each is set up, started and asked."""

import json
import os
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import run

ROUNDS, LIMIT_S = 6, 240.0


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
        self.rounds_in = "run"
        """Whose log says which round has ended."""

    def start(self, name: str, *command: object) -> None:
        words = [str(word) for word in command]
        if name not in self.processes:
            said = " ".join(words).replace(str(self.folder), "$OUT").replace(self.mnist, "$MNIST")
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

    def state(self) -> str:
        """Of the run, also where its watcher has lost the server; what the system says."""
        found = json.loads(self.said("flctl", "runs", "list", "--json") or "[]")
        return str(found[-1]["state"]) if found else "no run"

    finished = "finished"


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

    def state(self) -> str:
        found = json.loads(self.said("flwr", "list", "here", "--format", "json") or "{}")
        runs = found.get("runs") or [{"status": found.get("error-message", "no answer")}]
        return str(runs[0]["status"])

    finished = "finished:completed"


class Nvflare(Fleet):
    """As `nvflare poc prepare` lays it out, without the scripts that start a killed process again,
    so that it is out as long as those of the others."""

    name = "nvflare"

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.rounds_in = "server"
        self.environment |= {
            "HOME": str(self.folder),
            "NVFLARE_POC_WORKSPACE": f"{self.folder}/poc",
        }
        self.said("nvflare", "poc", "prepare", "-n", str(self.clients))
        (self.kits,) = Path(self.folder, "poc").glob("*/prod_00")
        self.environment["KIT"] = str(self.kits / "admin@nvidia.com")

    def open(self) -> None:
        self.server()
        wait_for(lambda: "Server started" in self.log("server"))
        for number in range(self.clients):
            self.client(number)
        registered = "Successfully registered client"
        wait_for(lambda: all(registered in self.log(f"client-{n}") for n in range(self.clients)))

    def server(self) -> None:
        self._part("server", "server", "server", "org=nvidia")

    def client(self, number: int) -> None:
        site = f"site-{number + 1}"
        self._part(f"client-{number}", "client", site, f"uid={site}", "org=nvidia")

    def _part(self, name: str, kind: str, kit: str, *how: str) -> None:
        self.start(
            name, "python", "-u", "-m", f"nvflare.private.fed.app.{kind}.{kind}_train",
            "-m", self.kits / kit, "-s", f"fed_{kind}.json",
            "--set", "secure_train=true", *how, "config_folder=config",
        )  # fmt: skip

    def train(self) -> None:
        job = run.HERE / "systems" / "nvflare_job.py"
        self.start("run", "python", job, "fleet", 1, self.mnist, self.folder)

    def done(self, line: str) -> int | None:
        if "Round " in line and " started." in line:
            return int(line.partition("Round ")[2].split()[0])
        return ROUNDS if "Finished FedAvg." in line else None

    def state(self) -> str:
        code = (
            "import os; from nvflare.fuel.flare_api.flare_api import new_secure_session as s; "
            "x = s('admin@nvidia.com', os.environ['KIT'], timeout=20); "
            "print([job['status'] for job in x.list_jobs()][-1], flush=True); os._exit(0)"
        )
        return (self.said("python", "-c", code).splitlines() or ["no answer"])[-1]

    finished = "FINISHED:COMPLETED"


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
