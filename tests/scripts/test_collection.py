"""The playbooks as a collection, built, installed from its archive and run from an empty folder."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests" / "hosts")]

import collection  # noqa: E402
from toys import Toys  # noqa: E402

import flctl  # noqa: E402


class Installed:
    def __init__(self, source: Path, folder: Path) -> None:
        """`folder`: a new one."""
        folder.mkdir()
        self.empty = folder / "empty"
        self.empty.mkdir()
        self._environment = {
            **os.environ,
            "ANSIBLE_COLLECTIONS_PATH": str(folder / "collections"),
            "ANSIBLE_HOME": str(folder / "home"),
            "ANSIBLE_NOCOLOR": "1",
        }
        self.archive = collection.build(source, folder)
        self.run("ansible-galaxy", "collection", "install", "--offline", self.archive)
        self.path = folder / "collections" / "ansible_collections" / "flctl" / "fleet"

    def run(self, program: str, *args: object) -> str:
        done = subprocess.run(
            [Path(sys.executable).with_name(program), *map(str, args)],
            capture_output=True, text=True, check=False, cwd=self.empty, env=self._environment,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr


def test_every_playbook_is_found_by_its_name(tmp_path: Path):
    """From a folder with nothing in it, with what its roles name; and also from a playbook of the
    user's own."""
    installed = Installed(ROOT / "ansible", tmp_path / "it")
    names = [path.stem.replace("-", "_") for path in (ROOT / "ansible").glob("*.yml")]
    inventory = ROOT / "ansible" / "example" / "inventory.yml"
    own = installed.empty / "own.yml"
    own.write_text("- import_playbook: flctl.fleet.push_data\n")
    plays = [f"flctl.fleet.{name}" for name in names if name not in {"before", "passed_over"}]
    said = installed.run(
        "ansible-playbook", "--syntax-check", "-i", inventory, own, *plays,
        "-e", "flctl_push_data_source=",
    )  # fmt: skip
    assert said.count("playbook: ") == len(plays) + 1
    assert "flctl.fleet" in installed.run("ansible-galaxy", "collection", "list")
    for role in (ROOT / "ansible" / "roles").iterdir():
        readme = (installed.path / "roles" / role.name / "README.md").read_text()
        spec = (role / "meta" / "argument_specs.yml").read_text()
        assert all(f"`{name}`" in readme for name in re.findall(r"(?m)^      (\w+):", spec))


def test_it_does_what_the_playbooks_do(tmp_path: Path):
    """Roles, modules and what these share are its own, and so is the version that it brings; in
    a playbook of the user's own as well."""
    toys = Toys(tmp_path / "toys", 1)
    toys.deployed("0.0.1")
    toys.image("coordinator", flctl.__version__)
    installed = Installed(toys.ansible, tmp_path / "it")
    own = installed.empty / "own.yml"
    own.write_text("- import_playbook: flctl.fleet.upgrade\n")
    toys.play(own, "--tags", "coordinator", collections=installed.path.parents[2])
    tags = toys.world["hosts"]["server"]["tags"]
    assert tags["flctl-coordinator:current"] == f"sha256:coordinator-{flctl.__version__}"


def test_files_go_through_its_connection(tmp_path: Path):
    """Its action plugin finds its module, and this what it shares with others."""
    installed = Installed(ROOT / "ansible", tmp_path / "it")
    (tmp_path / "sent").write_text("x" * 5000)
    play = installed.empty / "send.yml"
    play.write_text(
        "- hosts: localhost\n  gather_facts: false\n  tasks:\n    - flctl.fleet.flctl_send:\n"
        f"        {{source: {tmp_path}/sent, folder: {tmp_path}/there, owner: {os.getuid()}}}\n"
    )
    installed.run("ansible-playbook", play, "-e", f"ansible_python_interpreter={sys.executable}")
    assert (tmp_path / "there" / "sent").read_text() == "x" * 5000


def test_a_clone_has_forks_and_pipelining(tmp_path: Path):
    """Ansible reads the settings of the folder that it is run from, which is that of the clone."""
    dump = subprocess.run(
        [Path(sys.executable).with_name("ansible-config"), "dump", "--only-changed", "-t", "all"],
        capture_output=True, text=True, check=True, cwd=ROOT,
        env={**os.environ, "ANSIBLE_HOME": str(tmp_path)},
    ).stdout  # fmt: skip
    assert re.search(r"DEFAULT_FORKS\(.*\) = 10", dump)
    assert re.search(r"(?i)pipelining\(.*\) = true", dump)
