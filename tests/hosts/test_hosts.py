"""From bare hosts to a training fleet and away again: one story, each test a chapter of it."""

import json
import shutil
import time

import pytest
from fleet import Fleet, Play
from rig import Rig, docker

PIS = ("pi-01", "pi-02", "pi-03")
began = time.monotonic()


def test_two_playbooks_and_one_command_train_a_model(fleet: Fleet):
    """Fresh hosts, provisioned and deployed, then the first round: with the shares they own."""
    fleet.flctl("data", "split", "--task", "ecg", "--out", fleet.folder / "shares", "--agents", 3)
    write_settings(fleet, "pi-01", {"registry-mirrors": ["https://mirror.invalid"]})
    start = time.monotonic()
    for name in ("provision", "deploy"):  # on hosts without anything
        play = fleet.play(name, "--check", "--limit", "server,pi-01")
        assert play.failed == set(), play.said
    settings, engine = read_settings(fleet, "pi-03"), engine_of(fleet, "pi-03")
    fleet.play("provision")
    assert read_settings(fleet, "pi-03") == settings
    assert engine_of(fleet, "pi-03") == engine
    fleet.play("push-data", "--source", fleet.folder / "shares")
    before = {pi: engine_of(fleet, pi) for pi in PIS}
    deployed = fleet.play("deploy")
    came_once(deployed, 2)  # the coordinator's image and the agents'
    assert {pi: engine_of(fleet, pi) for pi in PIS} == before  # no engine was restarted for it
    fleet.connect()
    agents = fleet.status()
    assert {name: agent["ready"] for name, agent in agents.items()} == dict.fromkeys(PIS, True)
    fleet.train()
    assert time.monotonic() - start < 1500
    assert {agent["last_round"] for agent in fleet.status().values()} == {1}
    assert fleet.rig.ssh("pi-02", "hostname") == "pi-02"
    assert "cgroup_enable=memory" in fleet.rig.ssh("pi-02", "cat", "/boot/firmware/cmdline.txt")


def came_once(play: Play, images: int) -> None:
    """Images left the controller so often; each Pi pulled its own from the coordinator's host."""
    assert len(play.changed_by("Copy the archive")) == images, play.said
    pulled = play.changed_by("Pull the image from the coordinator's host")
    assert sorted(pulled) == [*PIS], play.said


def read_settings(fleet: Fleet, host: str) -> str:
    return fleet.rig.root(host, "cat", "/etc/docker/daemon.json")


def write_settings(fleet: Fleet, host: str, settings: dict[str, object]) -> None:
    write = 'mkdir -p /etc/docker && echo "$0" > /etc/docker/daemon.json'
    fleet.rig.root(host, "sh", "-c", write, json.dumps(settings))


def engine_of(fleet: Fleet, host: str) -> str:
    """Which package it is of, and its process."""
    script = "dpkg-query -W docker-ce; systemctl show -p MainPID docker; dpkg-query -W docker.io"
    return fleet.rig.root(host, "sh", "-c", f"{script} 2>&1 || true")


def test_the_hosts_are_as_people_have_them(fleet: Fleet):
    """Another Debian; one that asks for a password, and lets nobody in but over the jump host."""
    release = "grep -o VERSION_CODENAME=.* /etc/os-release"
    assert fleet.rig.ssh("pi-01", release) == "VERSION_CODENAME=trixie"
    assert fleet.rig.ssh("pi-01", "sudo -n id -u") == "0"
    assert "password is required" in fleet.rig.ssh("pi-02", "sudo -n id -u 2>&1 || true")
    straight = Rig("straight", [], fleet.rig.folder)
    straight.address = fleet.rig.address  # type: ignore[method-assign]
    assert straight.ssh("pi-01", "echo in") == "in"
    assert straight.ssh("pi-02", "echo in", check=False) == ""


def test_an_engines_settings_stay_and_what_is_missing_is_added(fleet: Fleet):
    """Before an engine was installed; the file that was there is kept."""
    settings = json.loads(read_settings(fleet, "pi-01"))
    assert settings["registry-mirrors"] == ["https://mirror.invalid"]
    assert (settings["live-restore"], settings["log-driver"]) == (True, "local")
    kept = fleet.rig.root("pi-01", "sh", "-c", "cat /etc/docker/daemon.json.*~")
    assert json.loads(kept) == {"registry-mirrors": ["https://mirror.invalid"]}


def test_settings_that_an_engine_refuses_are_taken_back(fleet: Fleet):
    """It runs with its old ones again, and so does the agent; what is good is merged."""
    before = read_settings(fleet, "pi-03")
    only = ("--limit", "pi-03", "--", "--tags", "docker_engine", "-e")
    play = fleet.play("provision", *only, '{"docker_engine_settings": {"ipv6": 7}}', code=1)
    assert "pi-03: the engine does not start with docker_engine_settings" in play.said
    assert read_settings(fleet, "pi-03") == before
    good = {"log-opts": {"max-file": "3"}, "live-restore": True}
    play = fleet.play("provision", *only, json.dumps({"docker_engine_settings": good}))
    assert "pi-03: /etc/docker/daemon.json: changed keys live-restore, log-opts" in " ".join(
        play.said.split()
    )
    merged = {**json.loads(before), **good, "log-opts": {"max-size": "9m", "max-file": "3"}}
    assert json.loads(read_settings(fleet, "pi-03")) == merged
    fleet.until(lambda agents: agents["pi-03"]["ready"], "pi-03 is ready again")


def test_nothing_of_value_is_on_the_way(fleet: Fleet):
    """The secret half stays on its Pi, for the agent alone; the container may do nothing."""
    listed = fleet.rig.root("pi-01", "stat", "-c", "%a %u %n", "/var/lib/flctl-agent/agent.key")
    assert listed == "600 7700 /var/lib/flctl-agent/agent.key"
    form = "{{with .HostConfig}}{{.ReadonlyRootfs}} {{.CapDrop}} {{.RestartPolicy.Name}}{{end}}"
    assert fleet.rig.root("pi-01", "docker", "inspect", "-f", form, "flctl-agent") == (
        "true [ALL] unless-stopped"
    )


def test_data_are_for_the_agent_alone(fleet: Fleet):
    """Not for the other users of the Pi that owns them."""
    found = fleet.rig.root("pi-01", "find", "/var/lib/flctl-data", "-printf", "%m %U %P\\n")
    assert found.splitlines() == ["700 0 ", "700 7700 default", "600 7700 default/beats.npz"]


def test_the_secret_key_that_was_given_is_the_coordinators(fleet: Fleet):
    """So a new server with it is the old one to all agents."""
    mine = (fleet.folder / "server.pub").read_text().strip()
    assert json.loads(fleet.flctl("keys", "list", "--json"))["server_key"] == mine
    folder = "/var/lib/flctl-coordinator/keys"
    form = ("stat", "-c", "%a %u %F", folder, f"{folder}/server.key")
    assert fleet.rig.root("server", *form) == "700 7700 directory\n600 7700 regular file"


def test_the_inventory_and_the_fleet_agree(fleet: Fleet):
    """`flctl discover` reads the same file as the playbooks."""
    said = fleet.flctl("discover", "--inventory", fleet.inventory, "--check")
    assert said.count("ready") == 3
    assert " instead of " not in said
    deployed = fleet.status()
    assert deployed["pi-02"]["image"] == deployed["pi-03"]["image"]
    assert deployed["pi-02"]["image"]


def test_who_cannot_be_reached_is_listed_with_what_to_do(fleet: Fleet):
    """A Pi that is off, and one whose name is wrong; nothing is done, and the exit code says so."""
    inventory = fleet.folder / "more.yml"
    inventory.write_text(
        f"{fleet.inventory.read_text()}"
        "    pi-04: {ansible_host: 127.0.0.1, ansible_port: 1}\n"
        "    pi-05: {ansible_host: nowhere.invalid}\n"
    )
    said = fleet.flctl("deploy", "-i", inventory, "--limit", "pi-04,pi-05", code=1)
    for_both = (
        ". Then repeat the command; to run it for the skipped hosts only, add --limit pi-04,pi-05"
    )
    assert "127.0.0.1 port 1: Connection refused); switch it on" in " ".join(said.split())
    assert "pi-05: skipped, because it is unreachable (ssh: Could not resolve" in said
    assert (
        f"its name cannot be resolved: set ansible_host to its address in the inventory{for_both}"
        in (" ".join(said.split()))
    )


def test_damaged_data_do_not_reach_a_host(fleet: Fleet):
    """What is good there stays, and the agent is invited as before."""
    digest = ["sha256sum", "/var/lib/flctl-data/default/beats.npz"]
    before = fleet.rig.root("pi-01", *digest)
    shutil.copytree(fleet.folder / "shares", fleet.folder / "damaged")
    share = fleet.folder / "damaged" / "pi-01" / "beats.npz"
    data = bytearray(share.read_bytes())
    data[1000] ^= 1
    share.write_bytes(data)
    play = fleet.play("push-data", "--source", fleet.folder / "damaged", "--limit", "pi-01", code=1)
    assert "pi-01: beats.npz of " in play.said and "so nothing was sent" in play.said
    assert fleet.rig.root("pi-01", *digest) == before
    assert not fleet.status()["pi-01"]["cordoned"]


def test_without_an_image_from_before_there_is_no_way_back(fleet: Fleet):
    """And nothing is changed: the agent takes part in the next round."""
    play = fleet.play("rollback", "--limit", "pi-01", code=1)
    assert "pi-01: there is no previous image" in play.said
    assert (play.changed, fleet.status()["pi-01"]["cordoned"]) == (0, False)


@pytest.mark.parametrize("name", ["provision", "deploy"])
def test_a_second_run_changes_nothing(fleet: Fleet, name: str):
    """Neither does it for real nor would it."""
    play = fleet.play(name)
    assert (play.changed, play.failed) == (0, set()), play.said
    play = fleet.play(name, "--check")
    assert (play.changed, play.failed) == (0, set()), play.said


PUT = """
import http.client, ssl, sys
tls = ssl.create_default_context(cafile=f"/etc/docker/certs.d/{sys.argv[1]}/ca.crt")
for method, path in (("GET", "tags/list"), ("POST", "blobs/uploads/")):
    asked = http.client.HTTPSConnection(sys.argv[1], context=tls, timeout=10)
    asked.request(method, f"/v2/flctl-agent/{path}")
    print(asked.getresponse().status)
"""


def test_the_registry_is_written_to_only_on_the_way(fleet: Fleet):
    """From the network it is only read, with the certificate that a Pi knows; over loopback nothing
    answers. The server's engine keeps none of the fleet's images."""
    address = f"{fleet.rig.address('server')}:7701"
    assert fleet.rig.root("pi-01", "python3", "-c", PUT, address).split() == ["200", "405"]
    listening = fleet.rig.root("server", "ss", "-tln")
    assert [port in listening for port in (":7701", ":7702", ":5000")] == [True, False, False]
    assert [*fleet.images("server")] == ["flctl-coordinator:current"]
    for pi in PIS:
        assert [*fleet.images(pi)] == ["flctl-agent:current"]


def test_a_registry_that_is_dead_is_named(fleet: Fleet):
    """One line says which, and what to do; the agent goes on, and a deploy brings it back."""
    archive = fleet.another_version("agent", "0.1.0.1")
    fleet.rig.root("server", "systemctl", "stop", "flctl-registry-pull")
    only = ("--limit", "pi-01", "--set", f"flctl_agent_archive={archive}", "--", "--tags", "images")
    play = fleet.play("deploy", *only, code=1)
    said = " ".join(play.said.split())
    assert "pi-01: docker pull" in said
    assert "connection refused" in said
    assert "systemctl status flctl-registry-pull" in said
    assert fleet.status()["pi-01"]["ready"]
    fleet.play("deploy", "--limit", "server", "--", "--tags", "images")
    assert ":7701" in fleet.rig.root("server", "ss", "-tln")


def test_an_upgrade_goes_through_the_fleet_while_it_trains(fleet: Fleet):
    """All end with the new version; the run goes on, and no round of it had to be repeated."""
    coordinator = fleet.another_version("coordinator", "0.1.1")
    agent = fleet.another_version("agent", "0.1.1")
    with fleet.training() as run:
        play = fleet.play(
            "upgrade", "--set", f"flctl_coordinator_archive={coordinator}",
            "--set", f"flctl_agent_archive={agent}",
        )  # fmt: skip
        came_once(play, 2)
        shown = fleet.status()
        events = [event["event"] for event in fleet.events(run)]
    assert {agent["version"] for agent in shown.values()} == {"0.1.1"}
    assert not any(agent["cordoned"] for agent in shown.values())
    assert "round" in events
    assert not {"attempt", "paused", "failed"} & set(events)


def test_a_broken_version_stops_at_the_canary(fleet: Fleet):
    """It is rolled back, in words; nobody else was touched, and the fleet still trains. The image
    comes from the controller itself, from now on."""
    fleet.set("flctl_registry", False)
    broken = fleet.another_version(
        "agent", "0.1.2", ("wire/framing.py", "^PROTOCOL = .*", "PROTOCOL = 99")
    )
    before = {pi: fleet.images(pi) for pi in PIS}
    play = fleet.play(
        "upgrade", "--limit", "flctl_agents", "--set", f"flctl_agent_archive={broken}",
        "--set", "flctl_agent_ready_s=30", code=1,
    )  # fmt: skip
    assert play.failed == {"pi-01"}
    assert "pi-01: pi-01 does not work with flctl 0.1.2" in play.said
    assert {pi: fleet.images(pi) for pi in PIS[1:]} == {pi: before[pi] for pi in PIS[1:]}
    assert {agent["version"] for agent in fleet.status().values()} == {"0.1.1"}
    fleet.train()


def test_a_host_that_is_off_is_passed_over_and_listed(fleet: Fleet):
    """The others get the new version; the exit code says that it is not all of them."""
    agent = fleet.another_version("agent", "0.1.3")
    docker("stop", "--time", "30", fleet.rig.container("pi-02"))
    play = fleet.play("upgrade", "--set", f"flctl_agent_archive={agent}", code=1)
    assert "pi-02: skipped, because it is unreachable" in play.said
    assert (play.failed, "--limit pi-02" in play.said) == ({"pi-02"}, True)
    agents = fleet.status()
    assert agents["pi-02"]["state"] in ("lost", "stopped")
    assert {agents[pi]["version"] for pi in ("pi-01", "pi-03")} == {"0.1.3"}
    assert ":7701" not in fleet.rig.root("server", "ss", "-tln")  # it went with its variable
    fleet.rig.root("server", "sh", "-c", "! ls -d /var/lib/flctl-registry /etc/flctl-registry")


def test_an_agent_comes_back_by_itself_when_its_host_boots(fleet: Fleet):
    """Nobody starts it; it has the version that it had, and takes part again."""
    docker("start", fleet.rig.container("pi-02"))
    fleet.rig.wait_for_ssh("pi-02")
    fleet.until(lambda agents: agents["pi-02"]["ready"], "pi-02 is ready again")
    assert fleet.status()["pi-02"]["version"] == "0.1.1"
    fleet.rig.inventory(fleet.inventory)  # it may have got another address
    fleet.train()


def test_a_rollback_goes_to_the_image_before(fleet: Fleet):
    """Two images are kept; those that were not upgraded go back one further."""
    fleet.play("rollback", "--limit", "pi-03")
    assert fleet.status()["pi-03"]["version"] == "0.1.1"


BOOT = "systemctl show --value --property UserspaceTimestampMonotonic"
"""A container's own; the boot id is that of the kernel, which stays."""


def test_updates_stop_at_a_host_that_does_not_come_back(fleet: Fleet):
    """pi-01 is updated, booted, and takes part again; pi-02 stays off: one line says so, and pi-03
    and the server are left alone until somebody has looked. They follow with the next run."""
    for host in (*PIS, "server"):
        fleet.rig.offer_update(host)
        docker("update", "--restart=always", fleet.rig.container(host))
    docker("update", "--restart=no", fleet.rig.container("pi-02"))
    with (fleet.folder / "group_vars" / "all.yml").open("a") as settings:
        settings.write(
            f"os_update_boot_command: {BOOT}\n"
            "os_update_reboot_timeout_s: \"{{ 20 if inventory_hostname == 'pi-02' else 300 }}\"\n"
        )
    booted = fleet.rig.root("pi-01", "sh", "-c", BOOT)
    play = fleet.play("update-os", code=1)
    assert play.failed == {"pi-02"}
    line = "pi-02: updated, but not back within 20 s of its reboot"
    assert line in " ".join(play.said.split())
    assert fleet.rig.root("pi-01", "sh", "-c", BOOT) != booted
    assert [fleet.rig.updated(host) for host in ("pi-01", "pi-03", "server")] == [
        True,
        False,
        False,
    ]
    agents = fleet.status()
    assert [agents[pi]["ready"] for pi in ("pi-01", "pi-03")] == [True, True]
    assert not any(agent["cordoned"] for agent in agents.values())
    docker("start", fleet.rig.container("pi-02"))
    fleet.rig.wait_for_ssh("pi-02")
    fleet.rig.inventory(fleet.inventory)
    fleet.until(lambda agents: agents["pi-02"]["ready"], "pi-02 is ready again")
    fleet.play("update-os")
    assert all(fleet.rig.updated(host) for host in (*PIS, "server"))
    fleet.train()


def test_new_keys_shut_out_the_old_ones(fleet: Fleet):
    """The agent comes back with another key; what the card held before is of no use. A link that
    its container has planted leads root nowhere."""
    old = fleet.rig.root("pi-01", "cat", "/var/lib/flctl-agent/agent.pub")
    plant = "mkdir /root/trap && ln -sfn /root/trap /var/lib/flctl-agent/agent.pub"
    fleet.rig.root("pi-01", "sh", "-c", plant)
    fleet.play("rotate-keys", "--limit", "pi-01")
    new = fleet.rig.root("pi-01", "cat", "/var/lib/flctl-agent/agent.pub")
    assert new != old
    assert fleet.rig.root("pi-01", "ls", "-A", "/root/trap") == ""
    kind = fleet.rig.root("pi-01", "stat", "-c", "%F", "/var/lib/flctl-agent/agent.pub")
    assert kind == "regular file"
    listed = fleet.flctl("keys", "list", "--json")
    assert new in listed
    assert old not in listed
    fleet.train()


def test_what_is_removed_leaves_nothing_behind(fleet: Fleet):
    """No container, no image, no file, no key."""
    fleet.play("remove", "--yes", "--set", "flctl_coordinator_remove_runs=true")
    for host in ("server", *PIS):
        assert fleet.rig.root(host, "docker", "ps", "--all", "--quiet") == ""
        assert fleet.rig.root(host, "docker", "images", "--quiet") == ""
        found = fleet.rig.root(host, "find", "/etc", "/opt", "/var", "/home", "-name", "*flctl*")
        assert set(found.splitlines()) <= {"/etc/systemd/journald.conf.d/flctl.conf"}
        assert fleet.rig.root(host, "sh", "-c", "ls /etc/docker/certs.d 2>/dev/null || true") == ""
