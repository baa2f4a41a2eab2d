"""compose.yaml, as the README tells it: up, train, kill, up again, down."""

import json
import signal
from collections.abc import Iterator

import pytest
from engine import Project, docker, run, until
from real_fleet import json_lines

pytestmark = pytest.mark.usefixtures("images")
AGENTS = 3
ROUNDS = 5


@pytest.fixture(scope="module")
def fleet(images, project_name) -> Iterator[Project]:
    project = Project(project_name, FLCTL_SHARDS=str(AGENTS))
    try:
        project.compose("up", "-d", "--scale", f"agent={AGENTS}")
        until(lambda: len(project.ready()) == AGENTS, "the agents")
        yield project
    finally:
        project.down()


def test_each_agent_has_its_own_key_and_part(fleet):
    keys = json.loads(fleet.cli("keys", "list", "--json").stdout)["keys"]
    assert [key["name"] for key in keys] == ["pi-01", "pi-02", "pi-03"]
    assert len({key["public_key"] for key in keys}) == AGENTS
    assert {key["shard"] for key in keys} == {"1/3 record", "2/3 record", "3/3 record"}
    for container in fleet.containers("agent"):
        mode = docker("exec", container, "stat", "-c", "%a %u", "/var/lib/flctl/agent.key")
        assert mode == "600 7700"


def test_the_containers_are_confined_and_well(fleet):
    for container in [*fleet.containers("agent"), *fleet.containers("coordinator")]:
        found = json.loads(docker("inspect", container))[0]
        host = found["HostConfig"]
        assert host["ReadonlyRootfs"]
        assert host["CapDrop"] == ["ALL"]
        assert not host["CapAdd"]
        assert host["SecurityOpt"] == ["no-new-privileges"]
        assert host["Memory"] >= 2**30
        assert host["PidsLimit"]
        assert docker("exec", container, "id", "-u") == "7700"
        health = docker("exec", container, "flctl", "health")
        assert "agents connected" in health or "linked to coordinator:7700" in health
        until(
            lambda c=container: docker("inspect", "-f", "{{.State.Health.Status}}", c) == "healthy",
            f"{container} healthy",
        )


def test_a_laptop_steers_the_fleet_after_connect(fleet, flctl, tmp_path):
    """`flctl status` on the host, through the published port."""
    key = flctl("keys", "new", tmp_path / "my.key").out.strip()
    fleet.cli("keys", "add", "me", "--role", "admin", "--", key)
    server = json.loads(fleet.cli("keys", "list", "--json").stdout)["server_key"]
    where = f"127.0.0.1:{fleet.port}"
    done = flctl("connect", where, f"--server-key={server}", "--key", tmp_path / "my.key")
    assert done.code == 0, done.err
    assert [agent["name"] for agent in json.loads(flctl("status", "--json").out)] == [
        "pi-01", "pi-02", "pi-03",
    ]  # fmt: skip


def test_a_run_survives_the_death_of_an_agent_and_of_the_coordinator(fleet, tmp_path):
    """Every round is committed once."""
    log = tmp_path / "train.log"
    options = ("--task", "ecg", "--rounds", ROUNDS, "--epochs", 2, "--seed", 1, "--json")
    watching = fleet.start_cli(log, "train", *options)
    try:
        until(
            lambda: any(e["event"] == "round" for e in json_lines(log.read_text())), log.read_text
        )
        run_id = next(e["run"] for e in json_lines(log.read_text()) if "run" in e)
        victim = fleet.containers("agent")[0]
        docker("kill", "-s", "KILL", victim)
        fleet.compose("kill", "-s", "KILL", "coordinator")
        fleet.compose("up", "-d", "--scale", f"agent={AGENTS}")

        def shown() -> dict:
            done = fleet.cli("runs", "show", run_id, "--json", check=False)
            return json.loads(done.stdout) if done.returncode == 0 else {}

        found = until(
            lambda: (s := shown()).get("state") in ("finished", "failed") and s,
            "the end of the run",
            600,
        )
        assert found["state"] == "finished", found
        journal = docker(
            "exec", fleet.containers("coordinator")[0], "cat",
            f"/var/lib/flctl/runs/{run_id}/journal.jsonl",
        )  # fmt: skip
        lines = [json.loads(line) for line in journal.splitlines()]
        committed = [line["round"] for line in lines if line["event"] == "round"]
        assert committed == list(range(1, ROUNDS + 1))
    finally:
        watching.send_signal(signal.SIGINT)
        watching.wait(60)


def test_an_agent_too_many_is_told_why(fleet):
    """Its log has one line; the others go on."""
    fleet.compose("up", "-d", "--no-recreate", "--scale", f"agent={AGENTS + 1}")
    try:
        assigned = "all 3 shards are assigned"
        until(lambda: assigned in fleet.compose("logs", "agent").stdout, "the line")
    finally:
        fleet.compose("up", "-d", "--no-recreate", "--scale", f"agent={AGENTS}")
    until(lambda: len(fleet.ready()) == AGENTS, "the agents")


def test_a_port_that_is_taken_is_told(fleet, project_name):
    other = Project(f"{project_name}-two")
    other._environment["FLCTL_PORT"] = str(fleet.port)
    try:
        done = other.compose("up", "-d", "coordinator", check=False)
        assert done.returncode != 0
        assert "port is already allocated" in done.stderr
    finally:
        other.down()
    assert other.left() == {}


def test_down_leaves_nothing(fleet):
    """Last: neither containers nor networks nor volumes, also not the anonymous ones."""
    volumes = [
        mount["Name"]
        for container in fleet.containers("agent")
        for mount in json.loads(docker("inspect", container))[0]["Mounts"]
        if mount["Type"] == "volume"
    ]
    assert len(set(volumes)) == AGENTS + 1
    fleet.down()
    assert fleet.left() == {}
    for volume in volumes:
        assert run("docker", "volume", "inspect", volume, check=False).returncode == 1
