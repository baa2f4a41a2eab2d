"""The playbooks of ansible/, which travel with the package, and Ansible's own program to run them.

flctl adds nothing to what they do: `ansible-playbook ansible/deploy.yml -i …` is the same.
"""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from flctl.errors import FlctlError, UsageError
from flctl.files import expect_path
from flctl.fleet.inventory import AGENTS, COORDINATOR, ansible, list_hosts

PROGRAM = "ansible-playbook"


def playbook(name: str) -> Path:
    """Raises UsageError when the playbooks were left out of this installation (an image)."""
    package = Path(__file__).parents[1]
    for folder in (package / "ansible", package.parent / "ansible"):
        path = folder / f"{name}.yml"
        if path.is_file():
            return path
    raise UsageError(
        f"this installation of flctl has no playbook {name}: install flctl from its wheel"
    )


def program() -> str:
    """Raises UsageError when Ansible is not installed."""
    found = ansible(PROGRAM)
    if found is None:
        raise UsageError("Ansible is not installed: pip install 'flctl[ansible]'")
    return found


def variables_of(texts: Sequence[str]) -> dict[str, str]:
    """What `--set NAME=VALUE` says. Raises UsageError."""
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.isidentifier():
            raise UsageError(f"--set {text}: NAME=VALUE, with the name of a variable")
        found[key] = value
    return found


def run_playbook(
    name: str, inventory: Path, variables: Mapping[str, str], options: Sequence[str] = ()
) -> None:
    """Returns when it has ended well; what Ansible says goes to the standard streams.

    Raises FlctlError when something has failed, KeyboardInterrupt when it was ended with Ctrl-C.
    """
    expect_path(inventory, f"--inventory {inventory}")
    path = playbook(name)
    _expect_hosts(inventory, _environment(path))
    command = [program(), str(path), "--inventory", str(inventory), *options]
    for key, value in variables.items():
        command += ["--extra-vars", f"{key}={_quoted(value)}"]
    code = _run(command, _environment(path))
    if code:
        raise FlctlError(
            f"{name} failed (ansible-playbook: {code}); see the lines above with 'fatal', "
            "'unreachable' or 'ERROR'"
        )


def _expect_hosts(inventory: Path, environment: Mapping[str, str]) -> None:
    """Raise UsageError if Ansible finds no host of ours: a playbook without hosts would succeed."""
    listing = list_hosts(inventory, environment)
    if not any(listing.members(group) for group in (COORDINATOR, AGENTS)):
        raise UsageError(
            f"--inventory {inventory}: no host in the groups {COORDINATOR} and {AGENTS}"
        )


def _run(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Ctrl-C reaches Ansible too: it is given the time to end its own work."""
    with subprocess.Popen(command, env=environment) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.wait()
            raise


def _environment(path: Path) -> dict[str, str]:
    """A configuration of the user's own goes first."""
    own = Path("ansible.cfg").exists() or Path("~/.ansible.cfg").expanduser().exists()
    given = {} if own else {"ANSIBLE_CONFIG": str(path.with_name("ansible.cfg"))}
    return {**given, **os.environ}


def _quoted(value: str) -> str:
    """As Ansible reads key=value: a value may hold spaces, and ends at its quote."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
