"""The commands as processes of their own: a coordinator, agents, an operator."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from real_fleet import WITHIN_S

from flctl.fleet.connecting import connect_coordinator

FLCTL = (sys.executable, "-m", "flctl")
PATIENCE_S = 90


class Home:
    """Starts commands that share one state folder; ends them all at the end of the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "FLCTL_STATE": str(folder / "state"), "NO_COLOR": "1"}
        self.started: list[subprocess.Popen[str]] = []

    def start(self, *args: object) -> subprocess.Popen[str]:
        with (self.folder / f"stderr-{len(self.started)}").open("w") as errors:
            process = subprocess.Popen(
                [*FLCTL, *map(str, args)],
                env=self.environment,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self.started.append(process)
        return process

    def errors(self) -> str:
        """What the command that was started last has said on stderr."""
        return (self.folder / f"stderr-{len(self.started) - 1}").read_text()

    def ask(self, *args: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*FLCTL, *map(str, args)],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=WITHIN_S,
            check=False,
        )

    def asked(self, *args: object):
        done = self.ask(*args, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def until_ready(self, count):
        """Ask again and again; nothing tells another process when an agent is ready."""
        deadline = time.monotonic() + WITHIN_S
        with connect_coordinator(self.folder / "state") as console:
            while [a["state"] for a in console.status()["agents"]] != ["ready"] * count:
                assert time.monotonic() < deadline, console.status()
                time.sleep(0.1)


@pytest.fixture
def home(tmp_path):
    made = Home(tmp_path)
    yield made
    for process in made.started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.mark.parametrize(("mode", "told"), [(0o644, True), (0o600, False)])
def test_a_token_file_that_others_can_read_is_told_of(tmp_path, mode, told):
    """The shell has made it as its umask says; the token is in it all the same."""
    file = tmp_path / "token"
    file.touch(mode)
    file.chmod(mode)
    with file.open("w") as out:
        done = subprocess.run(
            [sys.executable, "-m", "flctl", "keys", "token", "--state", tmp_path / "state"],
            stdout=out, stderr=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
    assert ("chmod 600" in done.stderr) == told and file.read_text().strip()
    assert done.stderr.count("\n") == int(told)


def test_a_fleet_by_hand(home, beats, tmp_path):
    """The commands of the README, one after the other: a token, two agents, a run, what is left."""
    token = tmp_path / "token"
    token.write_text(home.ask("keys", "token", "--uses", 2).stdout)
    coordinator = home.start("coordinator", "--bind", "127.0.0.1:0")
    endpoint = coordinator.stdout.readline().split()[-1]
    key = coordinator.stdout.readline().split()[-1]
    for name in ("pi-01", "pi-02"):
        home.start("agent", "--coordinator", endpoint, "--server-key", key, "--join-token-file",
                   token, "--name", name, "--state", tmp_path / name, "--data", beats(),
                   "--task", "ecg", "--threads", 1)  # fmt: skip
    home.until_ready(2)
    for agent in home.asked("status"):
        assert agent["examples"] == 64
        assert {"version", "kind", "temperature_c", "rtt_ms", "last_round"} <= set(agent)

    inventory = tmp_path / "inventory.ini"
    inventory.write_text("[flctl_agents]\npi-01\npi-02\npi-03\n")
    rows = home.asked("discover", "--inventory", inventory)
    assert [(row["name"], row["state"]) for row in rows] == [
        ("pi-01", "ready"), ("pi-02", "ready"), ("pi-03", "missing"),
    ]  # fmt: skip

    done = home.ask("train", "--task", "ecg", "--rounds", 2, "--agents", "pi-01,pi-02",
                    "--quorum", 0.8, "--deadline", 60, "--test-data", beats(), "--json",
                    "--save-model", tmp_path / "model.safetensors")  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [e["round"] for e in events if e["event"] == "round"] == [1, 2]
    assert events[-1]["event"] == "finished"
    assert (tmp_path / "model.safetensors").stat().st_size > 0
    (run,) = home.asked("runs", "list")
    assert (run["run"], run["state"]) == (events[-1]["run"], "finished")

    coordinator.send_signal(signal.SIGTERM)
    assert coordinator.wait(PATIENCE_S) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_nothing_behind(home, beats, tmp_path, number):
    """Ctrl-C, kill and a closed terminal end an embedded run so that it can be resumed; no
    process of it is left, and no key."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    home.environment["TMPDIR"] = str(temporary)
    train = home.start("train", "--task", "ecg", "--local", 1, "--rounds", 200, "--data", beats(),
                       "--json")  # fmt: skip
    for line in train.stdout:
        if json.loads(line)["event"] == "round":
            break
    family = psutil.Process(train.pid).children(recursive=True)
    assert len(family) >= 3  # the agent, its worker, the coordinator's worker
    assert list(temporary.glob("flctl-local-*/keys"))
    train.send_signal(number)
    *_, last = train.stdout
    assert train.wait(PATIENCE_S) == 128 + number
    assert json.loads(last)["event"] == "stopped"
    _, alive = psutil.wait_procs(family, timeout=PATIENCE_S)
    assert not alive
    (run,) = home.asked("runs", "list")
    assert run["state"] == "stopped"
    assert run["round"] >= 1
    assert not list(temporary.glob("*flctl-*"))
    assert f"resume with: flctl train --resume {run['run']}" in home.errors()
