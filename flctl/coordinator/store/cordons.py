"""Agents that an operator holds back: a list in the state folder, so that it survives a restart.

It is a file of its own, not a field of the keys: a coordinator that is rolled back to an
older version still reads those.
"""

from collections.abc import Set
from pathlib import Path

import msgspec
from msgspec import Struct

from flctl.errors import StateError, decoded
from flctl.files import explained, replace
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
    with explained(path, "read who is cordoned"):
        data = path.read_bytes()
    then = "; remove it, and cordon again whom you want to hold back"
    with decoded(StateError, f"{path}: damaged", then):
        found = msgspec.json.decode(data, type=CordonList)
    if found.schema != SCHEMA:
        raise StateError(f"{path}: schema {found.schema}, this version reads {SCHEMA}")
    return set(found.agents)


def save_cordons(state: Path, agents: Set[str]) -> None:
    """Raises StateError."""
    with explained(_path(state), "write down who is cordoned"):
        replace(_path(state), msgspec.json.encode(CordonList(agents=tuple(sorted(agents)))) + b"\n")


def _path(state: Path) -> Path:
    return state / "cordoned.json"
