"""The commands that run the playbooks: found, explained when they cannot, told what was asked."""

import json
import os
import re
import stat
import sys
import zipfile
from pathlib import Path

import pytest

from flctl.errors import FlctlError, UsageError
from flctl.fleet import playbooks

ROOT = Path(__file__).resolve().parents[2]


LISTED = {
    "_meta": {"hostvars": {}},
    "all": {"children": ["ungrouped", "flctl_agents"]},
    "flctl_agents": {"children": ["ward"]},
    "ward": {"hosts": ["pi-01"]},
}


@pytest.fixture
def ansible(tmp_path, monkeypatch) -> Path:
    """A stand-in for ansible-playbook that writes down what it was called with."""
    told = tmp_path / "told.json"
    program = tmp_path / "bin" / "ansible-playbook"
    program.parent.mkdir()
    program.write_text(
        "#!/usr/bin/env python3\nimport json, os, sys\n"
        f"json.dump([sys.argv[1:], os.environ.get('ANSIBLE_CONFIG')], open({str(told)!r}, 'w'))\n"
        "sys.exit(int(os.environ.get('CODE', '0')))\n"
    )
    listing = program.with_name("ansible-inventory")
    listing.write_text('#!/bin/sh\nprintf %s "$LISTED"\n')
    monkeypatch.setenv("LISTED", json.dumps(LISTED))
    for made in (program, listing):
        made.chmod(made.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(program.with_name("python")))
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("ANSIBLE_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    return told


def test_what_was_asked_reaches_ansible(ansible: Path, tmp_path: Path):
    """Variables keep their spaces and quotes; the configuration beside the playbooks is used."""
    inventory = tmp_path / "inventory.yml"
    inventory.touch()
    playbooks.run_playbook("deploy", inventory, {"note": "it's a \\ b"}, ["--limit", "pi-01"])
    args, config = json.loads(ansible.read_text())
    path = ROOT / "ansible" / "deploy.yml"
    assert args == [
        str(path), "--inventory", str(inventory), "--limit", "pi-01",
        "--extra-vars", "note='it\\'s a \\\\ b'",
    ]  # fmt: skip
    assert config == str(path.with_name("ansible.cfg"))


def test_a_configuration_of_ones_own_goes_first(ansible: Path, tmp_path: Path):
    """Whoever has an ansible.cfg in the folder means it."""
    (tmp_path / "ansible.cfg").touch()
    playbooks.run_playbook("deploy", tmp_path, {})
    assert json.loads(ansible.read_text())[1] is None


def test_a_failure_is_a_line_and_an_exit_code(ansible: Path, tmp_path: Path, monkeypatch):
    """Ansible has said what failed; this says where to look."""
    monkeypatch.setenv("CODE", "4")
    with pytest.raises(FlctlError, match="upgrade failed") as caught:
        playbooks.run_playbook("upgrade", tmp_path, {})
    assert caught.value.exit_code == 1


def test_without_ansible_the_extra_is_named(tmp_path: Path, monkeypatch):
    """One line, before anything else is looked at."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match=r"pip install 'flctl\[ansible\]'"):
        playbooks.run_playbook("deploy", tmp_path, {})


def test_an_inventory_that_is_not_there_is_wrong_usage(tmp_path: Path):
    """Ansible itself would only warn, and then do nothing."""
    with pytest.raises(UsageError, match="no such file"):
        playbooks.run_playbook("deploy", tmp_path / "nowhere.yml", {})


def test_the_wheel_carries_the_playbooks(tmp_path: Path):
    """All that Ansible needs is in flctl/ansible, where an installed flctl looks for it."""
    from hatchling.builders.wheel import WheelBuilder

    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    inside = set(zipfile.ZipFile(wheel).namelist())
    here = {
        f"flctl/{path.relative_to(ROOT)}"
        for path in (ROOT / "ansible").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert here <= inside
    assert "flctl/ansible/upgrade.yml" in here


@pytest.mark.parametrize("groups", [{}, {"all": {"hosts": ["pi-01"]}}, {"flctl_agents": {}}])
def test_an_inventory_without_hosts_of_ours_is_no_success(
    ansible: Path, tmp_path, groups, monkeypatch
):
    """Ansible's own playbook would end well, with nothing done."""
    monkeypatch.setenv("LISTED", json.dumps(groups))
    inventory = tmp_path / "inventory.yml"
    inventory.touch()
    told = "no host in the groups flctl_coordinator and flctl_agents"
    with pytest.raises(UsageError, match=told):
        playbooks.run_playbook("deploy", inventory, {})
    assert not ansible.exists()


def test_the_playbooks_need_no_collection():
    """Only modules of ansible-core and those beside them: nothing has to be fetched or fitted."""
    tasks = [path for path in (ROOT / "ansible").rglob("*.yml") if "example" not in path.parts]
    used = {
        module
        for path in tasks
        for module in re.findall(r"^ *(?:- )?(\w+\.\w+\.\w+):", path.read_text(), re.M)
    }
    assert {module for module in used if not module.startswith("ansible.builtin.")} == set()
    assert "ansible.builtin.command" in used
