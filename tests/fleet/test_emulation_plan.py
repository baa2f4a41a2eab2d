"""What an emulated fleet is planned to be, without Docker."""

from pathlib import Path

import pytest
import yaml
from docker.errors import DockerException
from requests.exceptions import ConnectionError as NoConnection
from urllib3.exceptions import ProtocolError

from flctl.errors import EngineError, UsageError
from flctl.fleet.emulation.engine import explained
from flctl.fleet.emulation.members import EmulatedAgent
from flctl.fleet.emulation.plan import (
    PROFILES,
    EmulationPlan,
    container_name,
    fleet_name,
    rate_bits,
)

KEY = "-" + "a" * 39


def plan(**changes):
    return EmulationPlan(**{"fleet": "flctl", "agents": 3, "profile": PROFILES["pi4"], **changes})


def value_of(command, flag):
    return command[command.index(flag) + 1]


def test_each_agent_has_its_shard_and_its_name():
    """Together the shards of all agents are the whole."""
    specs = [plan().agent(name, KEY, 8) for name in plan().names]
    assert [value_of(spec.command, "--name") for spec in specs] == ["pi-01", "pi-02", "pi-03"]
    assert [value_of(spec.command, "--shard") for spec in specs] == ["1/3", "2/3", "3/3"]


def test_a_profile_is_that_of_compose_yaml():
    """The same Pi has the same limits, whichever way its fleet was made."""
    text = (Path(__file__).parents[2] / "compose.yaml").read_text()
    services = yaml.safe_load(text)["services"]
    for profile in PROFILES.values():
        service = services[profile.name]
        assert service["cpus"] == profile.cores
        assert service["mem_limit"] == f"{profile.memory_mb // 1024}g"


def test_nothing_secret_is_in_a_command_line():
    """The token is named as a file; a server key may begin with a hyphen."""
    command = plan().agent("pi-01", KEY, 8).command
    assert f"--server-key={KEY}" in command
    assert value_of(command, "--join-token-file").startswith("/")


def test_weights_are_accepted_where_the_operator_says_so():
    """As on a device, its owner's default is to refuse them."""
    allowed = plan(accept_weights=True).agent("pi-01", KEY, 8)
    assert "--accept-weights" in allowed.command
    assert "--accept-weights" not in plan().agent("pi-01", KEY, 8).command


def test_a_container_is_made_anew_only_when_it_would_be_another():
    """Another shard, image or profile is another container; another name of the fleet is not."""
    spec = plan().agent("pi-01", KEY, 8)
    same = spec.digest("sha256:1")
    assert plan().agent("pi-01", KEY, 8).digest("sha256:1") == same
    assert spec.digest("sha256:2") != same
    assert plan(agents=4).agent("pi-01", KEY, 8).digest("sha256:1") != same
    assert plan(profile=PROFILES["pi3"]).agent("pi-01", KEY, 8).digest("sha256:1") != same


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_asks_for_no_more_cores_than_there_are(name):
    """Docker refuses a container that does."""
    options = plan(profile=PROFILES[name]).agent("pi-01", KEY, 1).options("flctl")
    assert 0 < options["nano_cpus"] <= 1_000_000_000
    assert options["mem_limit"] == options["memswap_limit"]


def test_every_container_is_shut_in():
    """No capability, no new privilege, nothing to write but its volume and a small /tmp."""
    for spec in (plan().coordinator(7700), plan().agent("pi-01", KEY, 8)):
        options = spec.options("flctl")
        assert options["cap_drop"] == ["ALL"]
        assert options["security_opt"] == ["no-new-privileges"]
        assert options["read_only"] is True
        assert list(options["tmpfs"]) == ["/tmp"]
        assert list(options["volumes"]) == [container_name("flctl", spec.name)]
        assert options["pids_limit"] > 0


def test_only_the_coordinator_can_be_reached_and_only_from_this_machine():
    """Its port is bound to loopback."""
    assert plan().coordinator(7712).options("flctl")["ports"] == {"7700/tcp": ("127.0.0.1", 7712)}
    assert "ports" not in plan().agent("pi-01", KEY, 8).options("flctl")


@pytest.mark.parametrize("name", ["", "Fleet", "-a", "a b", "a/b", "a" * 32, "a.b"])
def test_a_name_that_docker_would_not_take(name):
    """It is refused with what a name may be."""
    with pytest.raises(UsageError, match="a letter or digit first"):
        fleet_name(name)


def test_rates():
    """In the units of tc; anything else is refused with an example."""
    assert rate_bits("256kbit") == 256_000
    assert rate_bits("1.5Mbit") == 1_500_000
    for bad in ("", "256", "1mb", "0kbit", "1kbit", "99999gbit", "-1mbit", "nanmbit"):
        with pytest.raises(UsageError, match="write for instance 256kbit"):
            rate_bits(bad)


def member(**changes):
    whole = {
        "name": "pi-01", "container": "1", "image": "i", "power": "running", "exit_code": 0,
        "restarts": 0, "address": None, "endpoint": "e", "traits": {},
    }  # fmt: skip
    return EmulatedAgent(**{**whole, **changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "running"),
        ({"endpoint": None}, "running, cut off"),
        ({"power": "paused", "rate": "1 Mbit/s"}, "paused, slow 1 Mbit/s"),
        ({"power": "off", "exit_code": 137, "endpoint": ""}, "off (killed)"),
        ({"power": "off", "exit_code": 2, "endpoint": ""}, "off (exit code 2)"),
        ({"power": "off", "exit_code": None, "endpoint": ""}, "not started"),
    ],
)
def test_a_state_in_words(changes, words):
    """All faults that are in force, and how it ended."""
    assert member(**changes).state == words


@pytest.mark.parametrize(
    ("reason", "advice"),
    [
        (PermissionError(13, "Permission denied"), "usermod -aG docker"),
        (FileNotFoundError(2, "No such file"), "Docker is not running: no answer at"),
        (ConnectionRefusedError(111, "refused"), "systemctl start docker"),
    ],
)
def test_why_docker_cannot_be_reached(reason, advice):
    """What the SDK wraps three times is told as what to do about it."""
    wrapped = NoConnection(ProtocolError("Connection aborted.", reason))
    with pytest.raises(EngineError, match=advice), explained():
        raise DockerException("Error while fetching server API version") from wrapped
