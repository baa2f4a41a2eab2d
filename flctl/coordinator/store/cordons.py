"""Cordoned agents: a list in the state folder, so that it survives a restart.

It is a file of its own, not a field of the keys: a coordinator that is rolled back to an
older version still reads those.
"""

from collections.abc import Set
from pathlib import Path

import msgspec
from msgspec import Struct

from flctl.files import explained, load, replace
from flctl.settings import AgentName

SCHEMA = 1


class CordonList(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    schema: int = SCHEMA
    agents: tuple[AgentName, ...] = ()


def load_cordons(state: Path) -> set[str]:
    """Raises StateError when the file is damaged."""
    path = _path(state)
    if not path.exists():
        return set()
    then = "; remove it, and cordon the agents again"
    return set(load(path, CordonList, "read the list of cordoned agents", then, SCHEMA).agents)


def save_cordons(state: Path, agents: Set[str]) -> None:
    """Raises StateError."""
    with explained(_path(state), "save the list of cordoned agents"):
        replace(_path(state), msgspec.json.encode(CordonList(agents=tuple(sorted(agents)))) + b"\n")


def _path(state: Path) -> Path:
    return state / "cordoned.json"
