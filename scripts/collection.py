"""The playbooks as the collection flctl.fleet: dist/flctl-fleet-X.Y.Z.tar.gz.

    python scripts/collection.py

The files of ansible/ in the places and under the names that a collection wants. Nothing else
differs: both forms find roles and modules by the same short names.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from flctl.version import version_of

ROOT = Path(__file__).resolve().parents[1]
PLACES = {
    "library": "plugins/modules",
    "action_plugins": "plugins/action",
    "module_utils": "plugins/module_utils",
    "roles": "roles",
}
README = """# flctl.fleet

Brings flctl, federated learning, to Raspberry Pis and other Debian computers, and looks after it:
the playbooks of flctl's folder `ansible/`. Its `docs/how-to/ansible.md` explains them and their
variables. No other collection is needed.

    ansible-playbook flctl.fleet.deploy -i inventory.yml

Ansible reads no settings from a collection. These belong in your `ansible.cfg`:

```
{settings}```

Playbooks: {playbooks}.
Roles: {roles}.
"""


def lay_out(source: Path, to: Path, version: str) -> None:
    """`source`: the folder ansible/, or a copy of it."""
    ignore = shutil.ignore_patterns("__pycache__")
    for name, place in PLACES.items():
        shutil.copytree(source / name, to / place, ignore=ignore)
    for path in (to / "plugins").rglob("*.py"):
        path.write_text(
            path.read_text().replace(
                "from ansible.module_utils.flctl_",
                "from ansible_collections.flctl.fleet.plugins.module_utils.flctl_",
            )
        )
    playbooks = {path.name: path.name.replace("-", "_") for path in source.glob("*.yml")}
    (to / "playbooks").mkdir()
    for name, new in playbooks.items():
        text = (source / name).read_text()
        for old, its in playbooks.items():
            text = text.replace(f"import_playbook: {old}", f"import_playbook: {its}")
        (to / "playbooks" / new).write_text(text)
    describe(source, to, version, sorted(name.removesuffix(".yml") for name in playbooks.values()))


def describe(source: Path, to: Path, version: str, playbooks: list[str]) -> None:
    """What a collection says about itself; a role, what its argument_specs say already."""
    roles = []
    for spec in sorted(to.glob("roles/*/meta/argument_specs.yml")):
        role = spec.parents[1]
        about = yaml.safe_load(spec.read_text())["argument_specs"]["main"]
        lines = [f"# {role.name}", "", f"{about['short_description']}.", ""]
        for option, described in about.get("options", {}).items():
            lines.append(f"- `{option}` ({described['type']}): {described['description']}")
        (role / "README.md").write_text("\n".join(lines) + "\n")
        roles.append(role.name)
    (to / "README.md").write_text(
        README.format(
            settings=re.sub("(?m)^#.*\n", "", (source / "ansible.cfg").read_text()),
            playbooks=", ".join(playbooks),
            roles=", ".join(roles),
        )
    )
    (to / "meta").mkdir()
    (to / "meta" / "runtime.yml").write_text("---\nrequires_ansible: '>=2.18.0'\n")
    galaxy = {
        "namespace": "flctl",
        "name": "fleet",
        "version": version,
        "readme": "README.md",
        "authors": ["flctl"],
        "description": "Federated learning with flctl on a fleet of Raspberry Pis",
        "license_file": "LICENSE",
        "tags": ["infrastructure", "raspberrypi"],
        "dependencies": {},
    }
    (to / "galaxy.yml").write_text(yaml.safe_dump(galaxy, explicit_start=True, sort_keys=False))
    shutil.copy(ROOT / "LICENSE", to)


def build(source: Path, to: Path) -> Path:
    """The archive, in the folder `to`."""
    # A collection's version is semantic, with a hyphen: 0.2.0-dev0.
    version = version_of().version.replace(".dev", "-dev")
    with tempfile.TemporaryDirectory() as folder:
        lay_out(source, Path(folder), version)
        galaxy = Path(sys.executable).with_name("ansible-galaxy")
        command = [galaxy, "collection", "build", "--force", "--output-path", to, folder]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return to / f"flctl-fleet-{version}.tar.gz"


if __name__ == "__main__":
    print(build(ROOT / "ansible", ROOT / "dist"))
