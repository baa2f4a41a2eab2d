"""What `flctl label` does: changes labels of agents, or shows them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flctl.errors import UsageError
from flctl.labels import wanted, written
from flctl.terminal import output
from flctl.terminal.finding import coordinator

if TYPE_CHECKING:
    from flctl.fleet.console import RemoteRuns


def chosen(
    console: "RemoteRuns", agents: Sequence[str] | None, where: Sequence[str] | None
) -> list[str]:
    """Those that are named, or whose labels fulfil --where. Raises UsageError."""
    if bool(agents) == bool(where):
        both = ", not both" if agents else ""
        raise UsageError(f"name the agents or choose them with --where{both}")
    if not agents:
        return console.chosen(wanted(where))
    known = {agent["name"] for agent in console.status()["agents"]}
    if unknown := [name for name in agents if name not in known]:
        raise UsageError(f"no agent is enrolled as {unknown[0]}; see flctl status")
    return [*agents]


def hosts_chosen(
    inventory: Path, limit: str | None, where: Sequence[str], state: Path, context: str | None
) -> str:
    """What the inventory calls the agents that --where chooses, for --limit of Ansible. Raises
    UsageError."""
    from flctl.fleet.inventory import hosts_of

    if limit is not None:
        raise UsageError("use either --limit or --where, not both")
    with coordinator(state, context) as console:
        names = console.chosen(wanted(where))
    return ",".join(hosts_of(names, inventory))


def label(
    console: "RemoteRuns",
    agents: Sequence[str],
    changed: Mapping[str, str | None],
    reset: bool,
    json: bool,
) -> None:
    """Change these labels, if there is something to change, and show those that count."""
    status = {agent["name"]: agent.get("labels") or {} for agent in console.status()["agents"]}
    found = {name: status[name] for name in agents}
    if changed or reset:
        found = {name: console.label(name, changed, reset) for name in agents}
    made = output.table("agent", "labels")
    for name, labels in found.items():
        made.add_row(name, written(labels) or "-")
    output.answer([{"name": name, "labels": found[name]} for name in found], json, made)
