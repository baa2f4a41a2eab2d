"""A container of flctl on a host: replaced where it differs, and only by one that can be made."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "ansible" / "library"))

import flctl_container
from flctl_container import Unusable, bindings, bytes_of

WISH = {
    "name": "flctl-agent", "state": "started", "image": "flctl-agent:current", "hostname": "pi-01",
    "env": {"FLCTL_NAME": "pi-01", "TOKEN": "secret"}, "volumes": ["/var/lib/a:/var/lib/flctl"],
    "ports": [], "tmpfs": {"/tmp": "size=64m"}, "memory": "512m", "pids": 256,
    "network": "bridge", "stop_s": 30, "command": [], "health": "",
}  # fmt: skip


class Engine:
    """Docker, as far as the module asks it: containers with the options that made them."""

    def __init__(self) -> None:
        self.containers: dict[str, Any] = {}
        self.done: list[str] = []
        self.refuses = False

    def docker(self, *args: str, env: dict[str, str] | None = None) -> str:
        match args:
            case ("image", "inspect", _):
                image = {
                    "Id": "sha256:1",
                    "Config": {"Env": ["PATH=/bin"]},
                    "Architecture": "arm64",
                }
                return json.dumps([{**image, "RootFS": {"Layers": ["sha256:2"]}}])
            case ("container", "inspect", name):
                if name not in self.containers:
                    raise Unusable("Error: No such container")
                return json.dumps([self.containers[name]])
            case ("container", "create", *given_):
                at = next(n for n, each in enumerate(given_) if not each.startswith("--"))
                options, command = given_[:at], given_[at + 1 :]
                assert not any("secret" in option for option in options)
                if self.refuses:
                    raise Unusable("docker container create: invalid reference")
                given = dict(option.partition("=")[::2] for option in options)
                made = self.made(given, env or {})
                made["Config"] |= {"Cmd": command} if command else {}
                if health := given.get("--health-cmd"):
                    made["Config"]["Healthcheck"] = {"Test": ["CMD-SHELL", health]}
                self.containers[given["--name"]] = made
            case ("stop", _, name):
                self.containers[name]["State"]["Running"] = False
            case ("rm", _, _, name):
                del self.containers[name]
            case ("rename", old, new):
                self.containers[new] = self.containers.pop(old)
            case ("start", name):
                self.containers[name]["State"]["Running"] = True
        self.done.append(args[0])
        return ""

    def made(self, given: dict[str, str], env: dict[str, str]) -> dict[str, Any]:
        memory = int(given["--memory"])
        tmpfs, _, how = given["--tmpfs"].partition(":")
        config = {
            "Hostname": given["--hostname"], "StopTimeout": int(given["--stop-timeout"]),
            "Env": ["PATH=/bin", *(f"{key}={value}" for key, value in env.items())],
        }  # fmt: skip
        host = {
            "Binds": [given["--volume"]], "PortBindings": {}, "Tmpfs": {tmpfs: how},
            "Memory": memory, "MemorySwap": memory, "PidsLimit": int(given["--pids-limit"]),
            "NetworkMode": given["--network"], "RestartPolicy": {"Name": given["--restart"]},
            "ReadonlyRootfs": True, "CapDrop": ["ALL"], "CapAdd": None, "Privileged": False,
            "SecurityOpt": [given["--security-opt"]],
            "LogConfig": {"Type": "local", "Config": {"max-size": "5m", "max-file": "2"}},
        }  # fmt: skip
        return {
            "Image": "sha256:1", "Config": config, "HostConfig": host, "State": {"Running": False},
        }  # fmt: skip


@pytest.fixture
def engine(monkeypatch: Any) -> Engine:
    engine = Engine()
    monkeypatch.setattr(flctl_container, "docker", engine.docker)
    return engine


def ask(check: bool = False, **other: Any) -> dict[str, Any]:
    params = {**WISH, "env": dict(WISH["env"]), **other}
    return flctl_container.act(SimpleNamespace(params=params, check_mode=check))


def test_a_container_that_is_as_wanted_is_left_alone(engine: Engine):
    """The second time nothing is done; what was changed by hand or is wanted otherwise is named."""
    assert ask()["changed"]
    engine.done.clear()
    assert (ask(), engine.done) == ({"changed": False, "exists": True, "differs": []}, [])
    engine.containers["flctl-agent"]["HostConfig"]["Memory"] = 0
    assert ask(check=True, pids=300)["differs"] == ["memory", "pids"]
    assert engine.done == []
    assert ask(pids=300)["differs"] == ["memory", "pids"]
    assert engine.done == ["container", "stop", "rm", "rename", "start"]


def test_what_is_in_it_knows_its_image(engine: Engine):
    """By the digest that is the same on every engine, so that a fleet can be compared."""
    ask()
    variables = flctl_container.variables(engine.containers["flctl-agent"]["Config"]["Env"])
    layers, config = ["sha256:2"], {"Env": ["PATH=/bin"]}
    assert (
        variables["FLCTL_IMAGE"]
        == flctl_container.of_inspected(
            {"RootFS": {"Layers": layers}, "Config": config, "Architecture": "arm64"}
        )[0]
    )


def test_one_that_stands_still_is_started(engine: Engine):
    """Nothing else about it is wrong, so it stays the same container."""
    ask()
    engine.containers["flctl-agent"]["State"]["Running"] = False
    engine.done.clear()
    assert ask()["changed"]
    assert engine.done == ["start"]


def test_what_docker_refuses_changes_nothing(engine: Engine):
    """The old container is not stopped before the new one exists."""
    ask()
    engine.refuses = True
    with pytest.raises(Unusable, match="invalid reference"):
        ask(hostname="other")
    assert engine.containers["flctl-agent"]["State"]["Running"]


@pytest.mark.parametrize(
    ("text", "size"), [("512m", 512 << 20), ("2G", 2 << 30), ("100", 100), ("", 0), ("0", 0)]
)
def test_memory_as_people_write_it(text: str, size: int):
    """With the unit of Docker."""
    assert bytes_of(text) == size


def test_memory_that_is_none_is_named():
    """Not passed on to Docker."""
    with pytest.raises(Unusable, match="'lots' is not a size"):
        bytes_of("lots")


def test_ports_may_name_an_address():
    """Of a VPN, say; without one it is published everywhere."""
    assert bindings(["7700:7700"]) == {"7700/tcp": [{"HostIp": "", "HostPort": "7700"}]}
    assert bindings(["10.8.0.1:77:7700"]) == {
        "7700/tcp": [{"HostIp": "10.8.0.1", "HostPort": "77"}]
    }
    assert bindings(["[::1]:77:7700"]) == {"7700/tcp": [{"HostIp": "::1", "HostPort": "77"}]}


def test_one_image_serves_for_another_command(engine: Engine):
    """As that of the coordinator does for the page: with a health check of its own."""
    other = {"command": ["web"], "health": "curl -f http://127.0.0.1:9177/health"}
    ask()
    assert ask(**other)["differs"] == ["command", "health"]
    assert engine.containers["flctl-agent"]["Config"]["Cmd"] == ["web"]
    assert ask(**other)["differs"] == []
    assert ask()["differs"] == ["command", "health"]
