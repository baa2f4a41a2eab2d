"""A fleet of toys: the real playbooks against hosts that are folders of this machine.

Each host is reached with the connection `local`, and has an interpreter of its own that puts a
program `docker` first in its path: it plays the engine, the images, and flctl in the containers
(toys/docker). What the playbooks decide is real; what they do to a system is not, for that there
is the rig.
"""

import atexit
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TOYS = Path(__file__).parent / "toys"
PREFLIGHT = """
- ansible.builtin.setup: {gather_subset: ["!all", "!min", hardware, architecture]}
"""
RECAP = re.compile(r"^(\S+)\s+: ok=(\d+)\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)", re.M)


class Toys:
    def __init__(self, folder: Path, agents: int, with_coordinator: bool = False) -> None:
        """`with_coordinator`: the first agent lives on the coordinator's host."""
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.names = [f"pi-{number:02}" for number in range(1, agents + 1)]
        self.hosts = self.names if with_coordinator else ["server", *self.names]
        self.server = self.hosts[0]
        self._copy()
        self.world: dict[str, Any] = {
            "hosts": {h: {"name": h, "key": h, "tags": {}} for h in self.hosts},
            "images": {}, "registry": {}, "keys": {}, "cordoned": [], "busy": [], "calls": [],
            "names": ["10.0.0.1"],
        }  # fmt: skip
        for host in self.hosts:
            python = folder / host / "python"
            python.parent.mkdir()
            python.write_text(
                f"#!/bin/sh\nexport TOY_ROOT={folder} TOY_HOST={host} PATH={folder}/bin:$PATH\n"
                f'exec {sys.executable} -SE {TOYS}/python.py "$@"\n'
            )
            python.chmod(0o755)
        (folder / "bin").mkdir()
        docker = folder / "bin" / "docker"
        docker.write_text(f'#!/bin/sh\nexec {sys.executable} -SE {TOYS}/docker "$@"\n')
        docker.chmod(0o755)
        self.inventory({})

    def _copy(self) -> None:
        """The playbooks, without what would change this machine."""
        self.ansible = self.folder / "ansible"
        shutil.copytree(
            ROOT / "ansible", self.ansible, ignore=shutil.ignore_patterns("__pycache__")
        )
        (self.folder / "flctl").mkdir()
        shutil.copy(ROOT / "flctl" / "version.py", self.folder / "flctl")  # they ask it
        (self.ansible / "roles" / "preflight" / "tasks" / "main.yml").write_text(PREFLIGHT)
        for path in self.ansible.rglob("*.yml"):
            text = path.read_text().replace('"7700"', f'"{os.getuid()}"')
            text = re.sub(
                r"(?m)^( +delay:) \d+$", r"\1 0", text.replace("retries: 30", "retries: 2")
            )
            path.write_text(text)  # a toy is never about to start
        shutil.copy(TOYS / "flctl_container.py", self.ansible / "library")

    def inventory(self, variables: dict[str, Any], **of_hosts: dict[str, Any]) -> None:
        every = {
            "ansible_connection": "local", "ansible_become": False, "ansible_host": "10.0.0.1",
            "ansible_python_interpreter": f"{self.folder}/{{{{ inventory_hostname }}}}/python",
            "flctl_image_registry": "toys", "flctl_agent_ready_s": 6,
            "flctl_agent_state": f"{self.folder}/{{{{ inventory_hostname }}}}/agent",
            "flctl_keys_folder": f"{self.folder}/{{{{ inventory_hostname }}}}/agent",
            "flctl_coordinator_state": f"{self.folder}/{{{{ inventory_hostname }}}}/coordinator",
            "flctl_agent_pushed": f"{self.folder}/{{{{ inventory_hostname }}}}/pushed",
            **variables,
        }  # fmt: skip
        groups = {
            "flctl_coordinator": {"hosts": {self.server: {}}},
            "flctl_agents": {
                "hosts": {name: of_hosts.get(name.replace("-", "_"), {}) for name in self.names}
            },
            "all": {"vars": every},
        }
        (self.folder / "inventory.json").write_text(json.dumps(groups))

    def image(self, what: str, version: str, **about: Any) -> None:
        """One that the toys can pull. `broken`: tasks that cannot be imported in it; `lives`:
        whether an agent with it does; `fails_after`: so many looks at its health it is lost."""
        image = f"sha256:{what}-{version}"
        plain = {"tasks": {"ecg": "e" * 64}, "broken": [], "lives": True, "fails_after": 0}
        self.world["images"][image] = {"version": version, **plain, **about}
        self.world["registry"][f"toys/flctl-{what}:{version}"] = image

    def deployed(self, version: str, coordinator: str | None = None, **about: Any) -> None:
        """As if the fleet had this version for long."""
        self.image("agent", version, **about)
        self.image("coordinator", coordinator or version, **about)
        for name in self.names:
            host = self.world["hosts"][name]
            host["tags"]["flctl-agent:current"] = f"sha256:agent-{version}"
            host["agent"] = {"image": f"sha256:agent-{version}"}
            state = self.folder / name / "agent"
            state.mkdir(mode=0o700)
            (state / "agent.key").write_text("secret")
            (state / "agent.pub").write_text(name.ljust(40, "k"))
            self.world["keys"][name] = name.ljust(40, "k")
        server = self.world["hosts"][self.server]
        current = f"sha256:coordinator-{coordinator or version}"
        server["tags"]["flctl-coordinator:current"] = current

    def play(
        self,
        name: str | Path,
        *args: str,
        code: int = 0,
        said: str = "",
        collections: Path | None = None,
    ) -> "Played":
        """`said`: on standard input. `collections`: where the playbook of that name is, if it is
        not the toys' own."""
        world = self.folder / "world.json"
        world.write_text(json.dumps(self.world))
        done = subprocess.run(
            [Path(sys.executable).with_name("ansible-playbook"), "-i",
             self.folder / "inventory.json",
             name if collections else self.ansible / f"{name}.yml", *args],
            input=said, capture_output=True, text=True, timeout=600, check=False,
            cwd=collections or self.ansible,
            env={**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_HOME": str(self.folder / "home"),
                 "ANSIBLE_COLLECTIONS_PATH": str(collections or ""), "ANSIBLE_PIPELINING": "1",
                 "TOY_MODULES": modules()},
        )  # fmt: skip
        self.world = json.loads(world.read_text())
        played = Played(done.stdout + done.stderr)
        assert done.returncode == code, f"{done.returncode}\n{done.stdout}{done.stderr}"
        return played

    def versions(self) -> dict[str, str]:
        hosts = self.world["hosts"]
        return {name: hosts[name]["agent"]["image"].rpartition("-")[2] for name in self.names}

    def calls(self, *words: str) -> list[list[str]]:
        """Of `docker`: host and arguments, of those that hold all of these words."""
        return [call for call in self.world["calls"] if {*words} <= {*call}]


@cache
def modules() -> str:
    """The socket of toys/modules.py, which lives as long as this process."""
    path = str(Path(tempfile.mkdtemp(prefix="toys-")) / "modules")
    server = subprocess.Popen(
        [sys.executable, TOYS / "modules.py", path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert server.stdout and server.stdout.readline()
    atexit.register(server.communicate)
    return path


class Played:
    def __init__(self, said: str) -> None:
        self.all = said
        self.said = " ".join(said.split())
        self.failed = {host for host, *figures in RECAP.findall(said) if int(figures[3])}
