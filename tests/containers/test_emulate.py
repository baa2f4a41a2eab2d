"""`flctl emulate` with a real engine: a fleet is made, hurt, healed, and leaves nothing."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import docker
import pytest
from engine import AGENT, COORDINATOR

NAME = f"emutest-{os.getpid()}"
PATIENCE_S = 240


class Said(NamedTuple):
    code: int
    out: str
    err: str


class Fleet:
    """The command line with a state folder of its own."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.environment = {
            **os.environ, "FLCTL_STATE": str(folder), "FLCTL_FLEET": name,
            "COLUMNS": "300", "NO_COLOR": "1",
            "FLCTL_AGENT_IMAGE": AGENT,
            "FLCTL_COORDINATOR_IMAGE": COORDINATOR,
        }  # fmt: skip
        self.engine = docker.from_env()

    def flctl(self, *words: object, within_s: float = PATIENCE_S) -> Said:
        done = subprocess.run(
            [sys.executable, "-m", "flctl", *map(str, words)],
            capture_output=True, text=True, env=self.environment, timeout=within_s, check=False,
        )  # fmt: skip
        return Said(done.returncode, done.stdout, done.stderr)

    def emulate(self, *words: object) -> str:
        """What it prints; fails when it fails."""
        done = self.flctl("emulate", *words)
        assert done.code == 0, done.err
        return done.out

    def refused(self, *words: object) -> str:
        """Its one line."""
        done = self.flctl("emulate", *words)
        assert done.code == 1, done
        (line,) = (line for line in done.err.splitlines() if line.startswith("flctl: "))
        assert "Traceback" not in done.err
        return line

    def begin(self, *words: object) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "flctl", *map(str, words)],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=self.environment,
        )  # fmt: skip

    def ps(self) -> dict[str, Any]:
        return {m["name"]: m for m in json.loads(self.emulate("ps", "--json"))}

    def row(self, agent: str) -> str:
        """What a person reads of it in `flctl status`."""
        done = self.flctl("status", "--context", self.name)
        return next((line for line in done.out.splitlines() if line.startswith(agent)), "")

    def until_row(self, agent: str, *words: str) -> str:
        return until(
            lambda: self.row(agent),
            lambda row: all(word in row for word in words),
            f"{agent} {words}",
        )

    def things(self) -> list[str]:
        filters: Any = {"label": f"io.flctl.fleet={self.name}"}
        found: list[Any] = self.engine.containers.list(
            all=True, filters=filters, ignore_removed=True
        )
        found += self.engine.volumes.list(filters=filters)
        found += self.engine.networks.list(filters=filters)
        return sorted(thing.name for thing in found)

    def container(self, member: str) -> Any:
        return self.engine.containers.get(f"{self.name}-{member}")


def until(look: Callable[[], Any], good: Callable[[Any], Any], what: str) -> Any:
    end = time.monotonic() + PATIENCE_S
    while True:
        found = look()
        if good(found):
            return found
        assert time.monotonic() < end, f"not in {PATIENCE_S} s: {what}; {found}"
        time.sleep(0.3)


@pytest.fixture(scope="module")
def fleet(images, tmp_path_factory):
    """Two agents. Afterwards nothing is left, here or in the engine."""
    state = tmp_path_factory.mktemp("state")
    made = Fleet(state, NAME)
    try:
        assert made.emulate("up", "-n", 2, "--partition", "record").startswith(f"fleet {NAME}: 2")
        yield made
    finally:
        made.emulate("down")
        assert made.things() == []
        # What was seen of a run's journal is kept on purpose, whatever becomes of its coordinator.
        assert [p for p in state.rglob("*.json") if p.parent.name != "heads"] == []
        made.engine.close()


@pytest.fixture
def other(images, tmp_path):
    """Another fleet, of which there is nothing yet."""
    made = Fleet(tmp_path, f"{NAME}-b")
    yield made
    made.emulate("down")
    assert made.things() == []
    made.engine.close()


def test_a_fleet_is_ready_and_a_second_up_changes_nothing(fleet):
    """Both agents have their shard; the same command again finds nothing to do."""
    assert set(fleet.ps()) == {"coordinator", "pi-01", "pi-02"}
    assert " ready " in fleet.row("pi-01")
    before = {name: member["container"] for name, member in fleet.ps().items()}
    again = fleet.emulate("up", "-n", 2, "--partition", "record")
    assert "made" not in again
    assert "replaced" not in again
    assert {name: member["container"] for name, member in fleet.ps().items()} == before


def test_the_containers_are_shut_in(fleet):
    """Nothing runs as root, the agent's key is its own, and no secret can be seen from outside."""
    container = fleet.container("pi-01")
    status = container.exec_run(["cat", "/proc/1/status"]).output.decode()
    assert "\nUid:\t7700\t7700\t7700\t7700\n" in status
    assert "\nCapEff:\t0000000000000000\n" in status
    assert container.exec_run(["touch", "/etc/x"]).exit_code != 0
    modes = container.exec_run(["stat", "-c", "%a %U", "/var/lib/flctl/agent.key"]).output
    assert modes == b"600 flctl\n"
    assert "flt_" not in json.dumps(container.attrs)


def test_it_trains(fleet):
    """The context that `up` has saved steers it."""
    done = fleet.flctl(
        "train",
        "--context",
        NAME,
        "--task",
        "ecg",
        "--rounds",
        1,
        "--federate-after-n-batches",
        3,
        "--json",
    )
    assert done.code == 0, done.err
    assert '"finished"' in done.out


def test_kill_and_restart(fleet):
    """The power goes: lost at once, off in ps, and back with restart."""
    assert "back with: flctl emulate restart pi-01" in fleet.emulate("kill", "pi-01")
    assert fleet.ps()["pi-01"]["state"] == "off (killed)"
    row = fleet.until_row("pi-01", " lost ", "last seen")
    assert "MiB" not in row
    assert f"pi-01 is off; first: flctl emulate restart pi-01 --fleet {NAME}" in fleet.refused(
        "pause", "pi-01"
    )
    assert "pi-01 is off; first:" in fleet.refused("unpause", "pi-01")
    fleet.emulate("restart", "pi-01")
    fleet.until_row("pi-01", " ready ")


def test_pause(fleet):
    """An agent that hangs is seen to be silent before it is lost."""
    fleet.emulate("pause", "pi-01")
    assert fleet.ps()["pi-01"]["state"] == "paused"
    fleet.until_row("pi-01", " ready ", "silent for", "lost after 30 s")
    fleet.emulate("unpause", "pi-01")
    until(
        lambda: fleet.row("pi-01"), lambda row: "ready" in row and "silent" not in row, "it goes on"
    )


def test_cut_and_heal(fleet):
    """Nobody is told that the cable is pulled; when it is back, so is the agent."""
    fleet.emulate("cut", "pi-01")
    assert fleet.ps()["pi-01"]["state"] == "running, cut off"
    fleet.until_row("pi-01", " lost ", "last seen")
    assert "is cut off; first: flctl emulate heal" in fleet.refused("slow", "pi-01")
    fleet.emulate("heal", "pi-01")
    fleet.until_row("pi-01", " ready ")
    assert fleet.ps()["pi-01"]["state"] == "running"


def test_the_coordinator_is_cut_off_and_comes_back(fleet):
    """Agents find it again under its name, and the operator at its port."""
    fleet.emulate("cut", "coordinator")
    assert fleet.flctl("status", "--context", NAME).code == 1
    fleet.emulate("heal", "coordinator")
    for agent in ("pi-01", "pi-02"):
        fleet.until_row(agent, " ready ")


SERVE = """
import socket
server = socket.create_server(("0.0.0.0", 9000))
peer, _ = server.accept()
got = 0
while got < {count}:
    got += len(peer.recv(65536))
peer.sendall(b"x" * {count})
peer.recv(1)
"""
CALL = """
import socket, time
peer = socket.create_connection(("coordinator", 9000), 60)
began = time.monotonic()
peer.sendall(b"x" * {count})
first = peer.recv(1)
middle = time.monotonic()
got = 1
while got < {count}:
    got += len(peer.recv(65536))
print(middle - began, time.monotonic() - middle)
"""


def seconds_each_way(fleet, agent, count):
    """For `count` bytes up and for as many down, over the fleet's own network."""
    fleet.container("coordinator").exec_run(
        ["python3", "-c", SERVE.format(count=count)], detach=True
    )

    def call():
        code, out = fleet.container(agent).exec_run(["python3", "-c", CALL.format(count=count)])
        return out.decode().split() if code == 0 else None  # the other one may not listen yet

    return [float(text) for text in until(call, bool, "they have talked")]


def test_slow_is_slow_in_both_directions(fleet):
    """A quarter of a megabyte at 1 Mbit/s takes 2 s each way; after heal next to nothing."""
    fleet.emulate("cut", "pi-02")
    fleet.emulate("heal", "pi-02")  # its network has another name now
    fleet.emulate("slow", "pi-02", "--rate", "1mbit")
    assert fleet.ps()["pi-02"]["state"] == "running, slow 1 Mbit/s"
    mounts = fleet.container("pi-02-slow").attrs["Mounts"]
    assert [mount for mount in mounts if mount["Type"] == "volume"] == [], "it would stay"
    up, down = seconds_each_way(fleet, "pi-02", 250_000)
    assert 1.6 < up < 8
    assert 1.6 < down < 8
    fleet.emulate("heal", "pi-02")
    assert fleet.ps()["pi-02"]["state"] == "running"
    assert sum(seconds_each_way(fleet, "pi-02", 250_000)) < 1.5


def test_it_grows_and_shrinks(fleet):
    """Everybody gets a new shard and keeps its key; who goes is not enrolled any more."""
    keys = enrolled(fleet)
    fleet.emulate("pause", "pi-01")
    assert "made         pi-03" in fleet.emulate("up", "-n", 3)
    ps = fleet.ps()
    assert [ps[name]["traits"]["shard"] for name in list(ps)[1:]] == ["1/3", "2/3", "3/3"]
    assert ps["pi-01"]["state"] == "running"
    assert enrolled(fleet).items() > keys.items()
    assert "removed      pi-03" in fleet.emulate("up", "-n", 2, "--partition", "record")
    assert enrolled(fleet) == keys
    assert not [name for name in fleet.things() if "pi-03" in name or name.endswith(".old")]


def enrolled(fleet):
    listed = json.loads(fleet.flctl("keys", "list", "--json", "--context", NAME).out)["keys"]
    return {key["name"]: key["public_key"] for key in listed}


def test_ctrl_c_while_it_grows_leaves_it_as_it_was(fleet):
    """The very containers that there were run again."""
    before = {name: member["container"] for name, member in fleet.ps().items()}
    keys = enrolled(fleet)
    growing = fleet.begin("emulate", "up", "-n", 4)
    until(fleet.things, lambda names: f"{NAME}-pi-01.old" in names, "pi-01 is replaced")
    growing.send_signal(signal.SIGINT)
    _, said = growing.communicate(timeout=PATIENCE_S)
    assert growing.returncode == 130, said
    assert {name: member["container"] for name, member in fleet.ps().items()} == before
    for agent in ("pi-01", "pi-02"):
        fleet.until_row(agent, " ready ")
    assert enrolled(fleet) == keys


def test_ctrl_c_at_the_beginning_leaves_nothing(fleet, other):
    """Of two fleets side by side only the new one is gone."""
    growing = other.begin("emulate", "up", "-n", 2)
    until(other.things, lambda names: f"{other.name}-coordinator" in names, "it has begun")
    growing.send_signal(signal.SIGINT)
    _, said = growing.communicate(timeout=PATIENCE_S)
    assert growing.returncode == 130, said
    assert other.things() == []
    assert set(fleet.ps()) == {"coordinator", "pi-01", "pi-02"}


def test_an_agent_that_cannot_work(other):
    """Its own last word is the reason, and nothing is left."""
    line = other.refused("up", "-n", 1, "--task", "nosuch")
    assert "pi-01 keeps stopping: " in line
    assert "nosuch" in line
    assert other.things() == []


def test_an_image_that_is_not_there(other):
    """The line says how to get it."""
    line = other.refused("up", "-n", 1, "--image", "flctl-none:0")
    assert "no image flctl-none:0: build it with 'make images'" in line


def test_a_port_that_is_taken(other):
    """The line names it, and the option for another."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = other.refused("up", "-n", 1, "--port", port)
    assert f"port {port} of this machine is in use: choose another with --port" in line
    assert other.things() == []


def test_a_volume_of_somebody_else(other):
    """It is neither used nor removed."""
    name = f"{other.name}-pi-01"
    volume = other.engine.volumes.create(name)
    try:
        line = other.refused("up", "-n", 1)
        assert f"the volume '{name}' belongs to something else" in line
        assert f"docker volume rm {name}" in line
        other.emulate("down")
        assert other.engine.volumes.get(name)
    finally:
        volume.remove()


def test_a_name_that_is_not_there(fleet, other):
    """Who there is is said; and which fleets there are."""
    done = fleet.flctl("emulate", "kill", "pi-09")
    assert done.code == 2
    assert f"no 'pi-09' in fleet '{NAME}', which has coordinator, pi-01, pi-02" in done.err
    line = other.refused("ps")
    assert f"no emulated fleet '{other.name}' (there is " in line
    assert NAME in line


def test_logs(fleet):
    """Of all, in the order of time, with whose they are; of one, as it wrote them."""
    every = fleet.emulate("logs", "--tail", 20).splitlines()
    assert {line.partition(" ")[0] for line in every} == {"coordinator", "pi-01", "pi-02"}
    assert "agent=pi-01 welcome" in fleet.emulate("logs", "pi-01", "--tail", 1000)
