"""Which agents should exist, as an Ansible inventory says; Ansible itself is not needed.

Only names, groups and a host's own variables are read; templates are not evaluated and
nothing is executed. Files are untrusted: their size and what they expand to are bounded.
"""

import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import msgspec

from flctl.errors import UsageError
from flctl.fleet.inventory_ini import IniFile
from flctl.fleet.inventory_model import Host, Inventory, dynamic, fault
from flctl.fleet.inventory_yaml import YamlFile
from flctl.settings import AgentName

AGENTS = "flctl_agents"
COORDINATOR = "flctl_coordinator"
FILE_BYTES = 1024 * 1024
"""The most that an inventory file may take."""

_NOT_INVENTORY = ("~", ".bak", ".cfg", ".md", ".orig", ".retry", ".rst", ".swp", ".txt")
"""Ends of the file names in an inventory's folder that Ansible passes over."""

_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")


class Expected(NamedTuple):
    """An agent that should exist."""

    name: str
    """The agent's: the host's `flctl_name`, or its name in the inventory."""
    host: str
    """Where Ansible reaches it: `ansible_host`, or its name in the inventory."""
    line: int | None = None
    """Of the inventory file that first names it, counted from 1."""


def read_inventory(path: Path) -> tuple[Expected, ...]:
    """The agents that the inventory `path` (a file, or a folder of them) names, sorted.

    They are the hosts of the group `flctl_agents` where there is one, else all hosts but
    those of `flctl_coordinator`. Raises UsageError with the file and the line; also when there
    are none: whoever asks who is missing has named the wrong file, or a broken one.
    """
    inventory = Inventory()
    for file in _files(path):
        _read_file(inventory, file)
    _check_children(inventory)
    if AGENTS in inventory.groups:
        names = inventory.members(AGENTS)
    else:
        names = set(inventory.hosts) - inventory.members(COORDINATOR)
    folder = path if path.is_dir() else path.parent
    agents: dict[str, Expected] = {}
    for name in sorted(names):
        agent = _expected(name, inventory.hosts[name], folder)
        agents.setdefault(agent.name, agent)
    if not agents:
        raise fault(path, None, f"names no agent: put their hosts into the group {AGENTS}")
    return tuple(sorted(agents.values()))


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    try:
        inside = sorted(file for file in path.iterdir() if file.is_file())
    except OSError as error:
        raise fault(path, None, f"cannot read the folder: {error.strerror}") from error
    files = [f for f in inside if f.name[0] != "." and not f.name.endswith(_NOT_INVENTORY)]
    if not files:
        raise UsageError(f"{path}: no inventory file in this folder")
    return files


def _read_file(inventory: Inventory, path: Path) -> None:
    text = _text(path)
    if _is_yaml(path, text):
        YamlFile(inventory, path).read(text)
    else:
        IniFile(inventory, path).read(text)


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES + 1)
    except OSError as error:
        raise fault(path, None, f"cannot read the inventory: {error.strerror}") from error
    if len(data) > FILE_BYTES:
        raise fault(path, None, f"larger than {FILE_BYTES} bytes; is this an inventory?")
    if data.startswith(b"#!"):
        raise dynamic(path, 1)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise fault(path, line, "not UTF-8 text; is this an inventory?") from error


def _is_yaml(path: Path, text: str) -> bool:
    if path.suffix:
        return path.suffix in (".yml", ".yaml", ".json")
    lines = (line.strip() for line in text.splitlines())
    first = next((line for line in lines if line and line[0] not in "#;"), "")
    return first.startswith(("---", "{")) or bool(re.fullmatch(r"[\w.-]+:(\s+#.*)?", first))


def _check_children(inventory: Inventory) -> None:
    """A misspelt group would make its agents vanish from the table without a word."""
    for group, below in inventory.children.items():
        for child, (file, line) in below.items():
            if child not in inventory.groups and child not in inventory.children:
                raise fault(file, line, f"[{group}:children] names the unknown group '{child}'")
    try:
        TopologicalSorter(inventory.children).prepare()
    except CycleError as error:
        around: list[str] = error.args[1][::-1]
        file, line = inventory.children[around[0]][around[1]]
        what = f"the group {around[0]} contains itself ({' > '.join(around)[:200]}): "
        raise fault(file, line, f"{what}remove {around[1]} from its children") from error


def _expected(inventory_name: str, host: Host, folder: Path) -> Expected:
    variables = {**host.variables, **_host_vars(inventory_name, folder)}
    name = variables.get("flctl_name", inventory_name)
    address = variables.get("ansible_host", inventory_name)
    try:
        msgspec.convert(name, AgentName)
    except msgspec.ValidationError as error:
        what = (
            f"'{name[:80]}' cannot be an agent's name (lower-case letters, digits and . _ -, "
            f"63 at most); set flctl_name for the host {inventory_name[:80]}"
        )
        raise fault(host.file, host.line, what) from error
    # A template is Ansible's to evaluate; the name in the inventory says as much to a person.
    return Expected(name, inventory_name if "{{" in address else address, host.line)


def _host_vars(name: str, folder: Path) -> dict[str, str]:
    """Variables of the host's own file in `host_vars` beside the inventory."""
    if not _FILE_NAME.fullmatch(name):
        return {}
    for file in (folder / "host_vars" / f"{name}{end}" for end in (".yml", ".yaml", "")):
        if file.is_file():
            return YamlFile(Inventory(), file).host_variables(_text(file))
    return {}
