"""How much memory the containers of a fleet use."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from flctl.fleet.emulation.members import EmulatedAgent, at_once

if TYPE_CHECKING:
    from docker import DockerClient


def memory_bytes(client: "DockerClient", members: Iterable[EmulatedAgent]) -> dict[str, int]:
    """By name, of those that are up: what would not be given back if memory were short."""

    def of(member: EmulatedAgent) -> tuple[str, int | None]:
        figures = client.api.stats(member.container, stream=False, one_shot=True)
        return member.name, _used(figures)

    found = at_once(of, [member for member in members if member.is_up])
    return {name: used for name, used in found if used is not None}


def _used(figures: Any) -> int | None:
    memory = figures.get("memory_stats") or {}
    if "usage" not in memory:
        return None
    details = memory.get("stats") or {}
    # Files that were read and can be read again: cgroup 1 and 2 call them differently.
    cached = details.get("total_inactive_file", details.get("inactive_file", 0))
    return max(0, int(memory["usage"]) - int(cached))
