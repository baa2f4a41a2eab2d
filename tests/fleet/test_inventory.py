"""Inventories as Ansible reads them, and the list that it has written elsewhere."""

import json
import sys
from pathlib import Path

import pytest

from flctl.errors import UsageError
from flctl.fleet import inventory
from flctl.fleet.inventory import read_inventory

INI = """\
# the shelf
server ansible_host=10.0.0.2

[flctl_coordinator]
server

[lab]
pi-[01:02] ansible_user=pi   # who logs in
pi-04:2222 ansible_host=10.0.0.14 motd="two words"

[ward]
Heart-Monitor flctl_name=monitor
Other flctl_name=pi-07 ansible_host="{{ lookup('env', 'PI') }}"

[ward:vars]
ansible_host=10.0.0.20
"""
VAULTED = "$ANSIBLE_VAULT;1.1;AES256\n3436\n"


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder / next(iter(files))


def refusal(path: Path) -> str:
    with pytest.raises(UsageError) as caught:
        read_inventory(path)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(str(path))
    return str(caught.value)


@pytest.fixture
def without_ansible(monkeypatch):
    monkeypatch.setattr(inventory, "ansible", lambda _: None)


def saved(**hostvars):
    return json.dumps(
        {
            "_meta": {"hostvars": hostvars, "profile": "inventory_legacy"},
            "all": {"children": ["ungrouped", "flctl_agents"]},
            "flctl_agents": {"children": ["lab"], "hosts": ["pi-01"]},
            "lab": {"hosts": ["Pi-02"]},
        },
        indent=4,
    )


def named(path):
    return [agent[:2] for agent in read_inventory(path)]


def test_all_hosts_but_the_coordinators_with_ranges_groups_and_their_variables(tmp_path):
    """A host's own value goes before its group's; a template is not shown."""
    assert named(write(tmp_path, {"hosts": INI})) == [
        ("monitor", "10.0.0.20"),
        ("pi-01", "pi-01"),
        ("pi-02", "pi-02"),
        ("pi-04", "10.0.0.14"),
        ("pi-07", "Other"),
    ]


@pytest.mark.parametrize(
    ("files", "agent"),
    [
        ({"host_vars/pi-01/net.yml": "ansible_host: 192.0.2.1\n"}, ("pi-01", "192.0.2.1")),
        ({"host_vars/pi-01.json": '{"ansible_host": "192.0.2.2"}'}, ("pi-01", "192.0.2.2")),
        ({"group_vars/flctl_agents.yml": "flctl_name: named\n"}, ("named", "pi-01")),
        ({"group_vars/all/a.yml": "flctl_name: named\n"}, ("named", "pi-01")),
        (
            {"host_vars/pi-01.yml": VAULTED, "group_vars/all.yml": "ansible_host: 192.0.2.3\n"},
            ("pi-01", "192.0.2.3"),
        ),
        (
            {"host_vars/pi-01/a.yml": VAULTED, "host_vars/pi-01/b.yml": "flctl_name: named\n"},
            ("named", "pi-01"),
        ),
    ],
)
def test_variables_in_folders_count_as_in_a_playbook(tmp_path, files, agent):
    """What is wholly encrypted is passed over; everything else still counts."""
    path = write(tmp_path, {"hosts": "[flctl_agents]\npi-01\n", **files})
    assert named(path) == [agent]


def test_an_inventory_may_be_a_folder_with_a_vault(tmp_path):
    files = {"a.yml": "flctl_agents: {children: {lab: }}\n", "b": "[lab]\npi-1\npi-2\n"}
    write(tmp_path, {**files, "host_vars/pi-2.yml": VAULTED, "host_vars/pi-1.yml": "x: 1\n"})
    assert [agent.name for agent in read_inventory(tmp_path)] == ["pi-1", "pi-2"]


def test_a_saved_list_is_read_without_ansible(tmp_path, without_ansible):
    """`ansible-inventory --list > fleet.json`, with groups of groups."""
    file = write(tmp_path, {"fleet.json": saved(**{"Pi-02": {"flctl_name": "pi-02"}})})
    assert named(file) == [("pi-01", "pi-01"), ("pi-02", "Pi-02")]


def test_without_ansible_it_is_said_what_to_do(tmp_path, without_ansible):
    told = refusal(write(tmp_path, {"hosts": "pi-01\n"}))
    assert "flctl[ansible]" in told and "--list > fleet.json" in told


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('{"_meta": ', "not what ansible-inventory --list writes"),
        ('{"_meta": {"hostvars": []}}', "not what ansible-inventory --list writes"),
        ('{"_meta": {}, "all": {"hosts": {"pi": 1}}}', "not what ansible-inventory --list writes"),
        ('{"_meta": {}, "a": {"children": ["a"]}}', "names no agent"),
        (saved(), "'Pi-02' cannot be an agent's name"),
        (saved(**{"Pi-02": {"flctl_name": {"__ansible_vault": "x"}}}), "set flctl_name for the"),
        ('{"_meta": ' + "[" * 100_000, "not what ansible-inventory --list writes"),
    ],
)
def test_a_saved_list_is_checked(tmp_path, text, what, without_ansible):
    assert what in refusal(write(tmp_path, {"fleet.json": text}))


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("hosts", "pi-1\npi-2 broken\n", "Expected key=value host variable assignment"),
        ("hosts.yml", "all:\n  hosts: {\n", "line 3"),
        ("hosts", "# nobody yet\n", "names no agent"),
        ("hosts", "[flctl_agents]\n[web]\nw1\n", "names no agent"),
        ("hosts", "pi\nPi-01\n", "'Pi-01' cannot be an agent's name"),
    ],
)
def test_a_broken_inventory_is_refused_with_ansibles_reason(tmp_path, name, text, what):
    told = refusal(write(tmp_path, {name: text}))
    assert what in told


def test_a_missing_file_and_one_that_is_too_large(tmp_path, monkeypatch):
    assert "no such file or folder" in refusal(tmp_path / "no")
    monkeypatch.setattr(inventory, "BYTES", 100)
    assert "larger than 100 bytes" in refusal(write(tmp_path, {"f.json": saved()}))


def test_an_ansible_that_does_not_answer_is_ended(tmp_path, monkeypatch):
    slow = tmp_path / "ansible-inventory"
    slow.write_text(f"#!{sys.executable}\nimport time\ntime.sleep(60)\n")
    slow.chmod(0o755)
    monkeypatch.setattr(inventory, "ansible", lambda _: str(slow))
    monkeypatch.setattr(inventory, "ANSWER_S", 0.2)
    assert "has not answered within" in refusal(write(tmp_path, {"hosts": "pi-01\n"}))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[flctl_agents\npi-01\n", "line 1: '[flctl_agents': unclosed bracket"),
        ("[flctl_agents]\npi-[1:2\n", "line 2: 'pi-[1:2': unclosed bracket"),
        ("pi-[1:x]\n", "write it as in pi-[01:12]"),
        ("[lab]\npi-[00001:99999999]\n", "line 2: pi-[00001:99999999] names 99,999,999 hosts"),
        ("pi-[1:999]-[1:999] ansible_user=pi\n", "line 1: pi-[1:999]-[1:999] names 998,001 hosts"),
        ("a-[1:6000]\nb-[1:6000]\n", "line 2: b-[1:6000] names 6,000 hosts; 10,000 at most in all"),
        ("all:\n  hosts:\n    pi-[1:99999999]:\n", "line 3: pi-[1:99999999] names 99,999,999"),
    ],
)
def test_a_slip_in_a_range_is_one_line_at_once(tmp_path: Path, text: str, told: str):
    """Python's own words say nothing, and of a hundred million hosts Ansible says none."""
    name = "hosts.yml" if text.startswith("all:") else "hosts"
    assert told in refusal(write(tmp_path, {name: text}))


def test_a_range_of_many_is_read(tmp_path: Path):
    assert (
        len(read_inventory(write(tmp_path, {"hosts": "# pi-[1:99999999]\npi-[0001:2000:2]\n"})))
        == 1000
    )
