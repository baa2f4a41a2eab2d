"""What a rollout decides: the real playbooks, against toys."""

from pathlib import Path

import pytest
from toys import Toys

TO_2 = ("-e", "flctl_version=2")


@pytest.fixture
def toys(tmp_path: Path) -> Toys:
    """Four agents and a coordinator with version 1."""
    made = Toys(tmp_path, 4)
    made.deployed("1")
    made.image("coordinator", "2")
    return made


def waits(toys: Toys) -> list[list[str]]:
    """The agents of each wait for the end of a round."""
    return [call[call.index("--wait") + 2 :] for call in toys.calls("cordon")]


def test_an_upgrade_goes_through_the_fleet(toys: Toys):
    """One agent, then the batches; at the end nobody is held back."""
    toys.image("agent", "2")
    toys.play("upgrade", *TO_2)
    assert set(toys.versions().values()) == {"2"}
    assert toys.world["cordoned"] == []
    assert toys.world["hosts"]["server"]["tags"]["flctl-coordinator:current"][-1] == "2"


def test_the_batch_waits_once(toys: Toys):
    """D14: its agents finish their rounds side by side, and one connection waits for them all."""
    toys.image("agent", "2")
    toys.inventory({"flctl_rollout_batches": [1, "100%"]})
    toys.play("upgrade", *TO_2)
    assert waits(toys) == [["pi-01"], ["pi-02", "pi-03", "pi-04"]]


@pytest.mark.parametrize("batches", ["2,50%", [2, "50%"], 2])
def test_the_batches_are_a_variable(toys: Toys, batches: object):
    """In the inventory, as a list or as text."""
    toys.image("agent", "2")
    toys.inventory({"flctl_rollout_batches": batches})
    toys.play("upgrade", *TO_2)
    assert waits(toys) == [["pi-01", "pi-02"], ["pi-03", "pi-04"]]


def test_an_agent_at_work_for_too_long_fails_its_batch(toys: Toys):
    """It is named, keeps its image, and is invited again."""
    toys.image("agent", "2")
    toys.world["busy"] = ["pi-01"]
    played = toys.play("upgrade", *TO_2, code=2)
    assert "pi-01: error: still at work" in played.said or "pi-01: still at work" in played.said
    assert set(toys.versions().values()) == {"1"}
    assert toys.world["cordoned"] == []


def test_a_broken_version_stops_at_an_agent_that_worked(toys: Toys):
    """D10: one that had no data before would prove nothing, whatever its place in the inventory."""
    toys.image("agent", "2", lives=False)
    toys.world["hosts"]["pi-01"]["no_data"] = True
    played = toys.play("upgrade", *TO_2, code=2)
    assert played.failed == {"pi-02"}
    assert set(toys.versions().values()) == {"1"}
    assert toys.world["cordoned"] == []


def test_no_worse_than_before_is_good_enough(toys: Toys):
    """D10: an agent without data before needs none afterwards; one that was away may be away."""
    toys.image("agent", "2")
    toys.inventory({}, pi_03={"flctl_agent_data": {"default": str(toys.folder)}})
    toys.world["hosts"]["pi-03"]["no_data"] = True
    toys.world["hosts"]["pi-04"]["away"] = True
    played = toys.play("upgrade", *TO_2)
    assert set(toys.versions().values()) == {"2"}
    assert "pi-04: pi-04 is lost, as it was before" in played.said


@pytest.mark.parametrize(("most", "new"), [(50, ["2", "2", "1", "2"]), (0, ["2", "1", "1", "1"])])
def test_so_many_may_fail(toys: Toys, most: int, new: list[str]):
    """D10: those alone go back; beyond that the batch goes back, and it ends there."""
    toys.image("agent", "2")
    toys.image("agent", "3", lives=False)
    toys.inventory(
        {
            "flctl_version": "2",
            "flctl_rollout_batches": [1, 2, 1],
            "flctl_rollout_max_fail_percentage": most,
        },
        pi_03={"flctl_version": "3"},
    )
    played = toys.play("upgrade", code=2)
    assert [*toys.versions().values()] == new
    assert played.failed == ({"pi-03"} if most else {"pi-02", "pi-03"})


def test_after_a_while_it_must_still_work(toys: Toys):
    """D10: what fails only at work is found by a pause to soak, and rolled back."""
    toys.image("agent", "2", fails_after=1)
    toys.inventory({"flctl_rollout_soak_s": 1})
    played = toys.play("upgrade", *TO_2, code=2)
    assert played.failed == {"pi-01"}
    assert set(toys.versions().values()) == {"1"}
    assert toys.world["cordoned"] == []


def test_a_task_that_an_agent_had_must_work_still(tmp_path: Path):
    """D11: ready by the demo's data alone is worse than before; a person may say that it goes."""
    toys = Toys(tmp_path, 2)
    toys.deployed("1", tasks={"ecg": "e" * 64, "wear": "a" * 64})
    toys.image("coordinator", "2")
    toys.image("agent", "2", tasks={"ecg": "e" * 64, "wear": "b" * 64}, broken=["wear"])
    played = toys.play("upgrade", *TO_2, code=2)
    assert played.failed == {"pi-01"}
    assert "without wear, which it had before" in played.said
    assert set(toys.versions().values()) == {"1"}
    toys.play("upgrade", *TO_2, "-e", '{"flctl_rollout_may_lose": ["wear"]}')
    assert set(toys.versions().values()) == {"2"}


@pytest.fixture
def running(toys: Toys) -> Toys:
    """A run is in progress, and version 2 has other code for its task."""
    toys.world["run"] = {"run": "ecg-1", "task": "ecg", "digest": "e" * 64}
    toys.image("agent", "2", tasks={"ecg": "f" * 64})
    return toys


def test_other_code_for_a_run_in_progress_is_asked_about(running: Toys):
    """D12: before anything is changed; in a script a flag says yes."""
    running.image("coordinator", "2", tasks={"ecg": "f" * 64})
    played = running.play("upgrade", *TO_2, code=2)
    assert "in progress, and flctl-coordinator has other code for its task" in played.said
    assert "--anyway" in played.said
    assert set(running.versions().values()) == {"1"}
    assert not running.calls("cordon")
    assert running.world["hosts"]["server"]["tags"]["flctl-coordinator:current"][-1] == "1"
    running.play("upgrade", *TO_2, "-e", "flctl_rollout_anyway=true")
    assert set(running.versions().values()) == {"2"}


def test_so_is_that_of_the_agents_alone(running: Toys):
    """D12: a task of one's own stands in their image only."""
    played = running.play("upgrade", *TO_2, code=2)
    assert "pi-01: run ecg-1 is in progress, and flctl-agent has other code" in played.said
    assert set(running.versions().values()) == {"1"}
    assert not running.calls("cordon")


def test_the_same_code_is_not_asked_about(running: Toys):
    """Nor is another version of flctl, as long as it trains in the same way."""
    running.image("agent", "2")
    running.play("upgrade", *TO_2)
    assert set(running.versions().values()) == {"2"}


def test_a_rollback_asks_too(running: Toys):
    """D12: the image from before may have other code as well."""
    running.play("upgrade", *TO_2, "-e", "flctl_rollout_anyway=true")
    running.world["run"]["digest"] = "f" * 64
    running.world["calls"] = []
    played = running.play("rollback", code=2)
    assert "run ecg-1 is in progress" in played.said
    assert set(running.versions().values()) == {"2"}
    running.play("rollback", "-e", "flctl_rollout_anyway=true")
    assert set(running.versions().values()) == {"1"}


def test_a_host_that_is_both_keeps_its_parts_apart(tmp_path: Path):
    """D7: a coordinator's new image does not roll back an agent that was not touched."""
    toys = Toys(tmp_path, 2, with_coordinator=True)
    toys.deployed("1")
    toys.image("agent", "0")
    toys.world["hosts"]["pi-01"]["tags"]["flctl-agent:previous"] = "sha256:agent-0"
    toys.image("coordinator", "2")  # but no agent of that version: it cannot even be pulled
    toys.play("upgrade", *TO_2, code=2)
    assert toys.world["hosts"]["pi-01"]["tags"]["flctl-coordinator:current"][-1] == "2"
    assert toys.versions() == {"pi-01": "1", "pi-02": "1"}


def test_data_that_did_not_arrive_are_not_mounted(toys: Toys):
    """D9: the folder that a failed push has left is no data set."""
    (toys.folder / "pi-01" / "pushed" / "default").mkdir(parents=True)
    good = toys.folder / "pi-02" / "pushed" / "beats"
    good.mkdir(parents=True)
    (good / "beats.npz").touch()
    toys.image("agent", "2")
    toys.play("upgrade", *TO_2)
    agents = {name: host.get("agent") for name, host in toys.world["hosts"].items()}
    assert len(agents["pi-01"]["volumes"]) == 1
    assert agents["pi-02"]["volumes"][1:] == [f"{good}:/data/beats:ro"]
    assert agents["pi-02"]["env"]["FLCTL_DATA"] == "beats=/data/beats"


def test_data_that_are_not_there_are_not_mounted(toys: Toys):
    """D9: Docker would make an empty folder of that name."""
    toys.inventory({}, pi_01={"flctl_agent_data": {"default": "/nowhere/beats.npz"}})
    toys.image("agent", "2")
    played = toys.play("deploy", *TO_2, code=2)
    assert "pi-01: flctl_agent_data names /nowhere/beats.npz, which does not exist" in played.said


def test_the_port_has_an_address(toys: Toys):
    """D17: that of a VPN, for example; agents dial it."""
    toys.inventory({"flctl_coordinator_address": "10.8.0.1"})
    toys.world["names"] = ["10.8.0.1"]
    toys.play("deploy", "-e", "flctl_version=1")
    hosts = toys.world["hosts"]
    assert hosts["server"]["coordinator"]["ports"] == ["10.8.0.1:7700:7700"]
    assert hosts["pi-01"]["agent"]["env"]["FLCTL_COORDINATOR"] == "10.8.0.1:7700"
    toys.inventory({})
    toys.world["names"] = ["10.0.0.1"]
    toys.play("deploy", "-e", "flctl_version=1")
    assert toys.world["hosts"]["server"]["coordinator"]["ports"] == ["7700:7700"]


def test_labels_of_the_inventory_reach_the_agent(toys: Toys):
    """Those of the host instead of those of the group; what is no label is said before anything is
    started. The owner's word about the log goes along."""
    ward = {"flctl_labels": {"site": "ward-3", "rack": 7}}
    own = {"flctl_labels": {"site": "ward-4"}, "flctl_agent_share_log": False}
    toys.inventory(ward, pi_02=own)
    toys.play("deploy", "-e", "flctl_version=1")
    env = {name: toys.world["hosts"][name]["agent"]["env"] for name in ("pi-01", "pi-02")}
    assert env["pi-01"]["FLCTL_LABEL"] == "rack=7 site=ward-3"
    assert env["pi-02"]["FLCTL_LABEL"] == "site=ward-4"
    assert [env[name]["FLCTL_SHARE_LOG"] for name in env] == ["true", "false"]
    toys.inventory(ward, pi_02={"flctl_labels": {"site": "ward 4"}})
    played = toys.play("deploy", "-e", "flctl_version=1", code=2)
    assert "pi-02: flctl_labels has site=ward 4: a key and a value have up to 63" in played.said
    toys.inventory({})
    toys.play("deploy", "-e", "flctl_version=1")
    assert "FLCTL_LABEL" not in toys.world["hosts"]["pi-01"]["agent"]["env"]


def test_the_way_is_tried_from_a_container(toys: Toys):
    """D18: a name that only the host's /etc/hosts knows is found before an agent is started."""
    toys.inventory({"flctl_agent_coordinator": "server.local:7700"})
    played = toys.play("deploy", "-e", "flctl_version=1", code=2)
    assert (
        "pi-01: from a container on this host, nothing answers at server.local:7700" in played.said
    )
    assert "Name or service not known" in played.said
    assert "env" not in toys.world["hosts"]["pi-01"]["agent"]


def test_a_dead_card_is_replaced(toys: Toys):
    """Its new key takes the place of the old one, and it is invited again; while the old machine is
    at work, nothing is done."""
    toys.world["cordoned"] = ["pi-03"]
    (toys.folder / "pi-03" / "agent" / "agent.pub").write_text("new".ljust(40, "k"))
    replace = ("-e", "flctl_version=1", "-e", "flctl_replace=pi-03", "--limit", "pi-03")
    played = toys.play("deploy", *replace, code=2)
    assert (
        "pi-03: an agent with the old key of pi-03 is ready, so it is still in use" in played.said
    )
    assert toys.world["keys"]["pi-03"] == "pi-03".ljust(40, "k")
    toys.world["hosts"]["pi-03"]["key"] = "new"  # so that of the old one is at no machine any more
    toys.play("deploy", *replace)
    assert toys.world["keys"]["pi-03"] == "new".ljust(40, "k")
    assert toys.world["cordoned"] == []


STUBS = {
    "look": """
- set_fact: {os_update_found: "{{ [] if inventory_hostname == 'pi-02' else ['libc6'] }}"}
""",
    "main": "- command: docker restart system",
}


UNREACHABLE = """
- command: docker restart system
  vars:
    ansible_connection: "{{ 'ssh' if inventory_hostname == 'pi-01' else 'local' }}"
    ansible_host: 127.0.0.1
    ansible_port: 1
"""


def stub_updates(toys: Toys, **other: str) -> None:
    """The updates themselves would be this machine's."""
    for name, text in {**STUBS, **other}.items():
        (toys.ansible / "roles" / "os_update" / "tasks" / f"{name}.yml").write_text(text)


def test_an_update_ends_where_a_host_is_gone(tmp_path: Path):
    """Of two at a time one cannot be reached any more: Ansible itself would go on with the next."""
    toys = Toys(tmp_path, 3)
    toys.deployed("1")
    stub_updates(toys, main=UNREACHABLE)
    toys.inventory({"flctl_rollout_batches": [2, 1]})
    played = toys.play("update-os", code=2)
    assert "pi-01: unreachable since its update started" in played.said
    assert waits(toys) == [["pi-01"]]
    assert not toys.calls("server", "system")


def test_hosts_are_updated_between_rounds(toys: Toys):
    """Cordoned, updated, seen at work, invited again; one without updates is left alone."""
    stub_updates(toys)
    toys.play("update-os")
    assert waits(toys) == [["pi-01"], ["pi-03"], ["pi-04"]]
    order = [c[0] if "system" in c else c[-1] for c in toys.world["calls"]
             if "system" in c or "cordon" in c or "uncordon" in c]  # fmt: skip
    assert order == ["pi-01"] * 3 + ["pi-03"] * 3 + ["pi-04"] * 3 + ["server"]
    assert toys.world["cordoned"] == []
