"""The heads of journals and of the audit file that were seen last: kept on the operator's side.

The coordinator's machine can compute a chain again after a change; it cannot change what is
kept here. One small file each in STATE/heads, for this user only.
"""

import logging
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from flctl.core.chain import is_head
from flctl.core.events import RoundCommitted
from flctl.core.stream import DURABLE, Published
from flctl.errors import FlctlError, StateError, one_line
from flctl.files import load, make_folder, replace
from flctl.wire.messages import RunId

logger = logging.getLogger(__name__)


class Seen(Struct, frozen=True, forbid_unknown_fields=True):
    head: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
    what: str
    """What it is the head of: "round 7"."""
    at: float
    """When the coordinator wrote it, in seconds since 1970 by its clock."""


class Heads:
    """Keeps the heads that one coordinator's runs tell, event by event."""

    def __init__(self, state: Path) -> None:
        self._state = state

    def on_event(self, told: Published) -> None:
        """Keep the head of the event. A failure is only logged: the run continues."""
        event = told.event
        if not isinstance(event, DURABLE) or not is_head(told.head):
            return
        what = f"round {event.round}" if isinstance(event, RoundCommitted) else event.word
        try:
            keep(self._state, told.run, Seen(told.head, what, event.at))
        except FlctlError as error:
            logger.warning("run=%s its head is not saved: %s", told.run, error)


def keep(state: Path, name: str, seen: Seen) -> None:
    """Remember the newest head of `name`. Raises StateError."""
    path = _path(state, name)
    make_folder(path.parent)
    replace(path, msgspec.json.encode(seen) + b"\n")


def kept(state: Path, name: str) -> Seen | None:
    """What was kept last under `name`. Raises StateError when the file is damaged."""
    path = _path(state, name)
    if not path.exists():
        return None
    return load(path, Seen, "read the head that was kept", "; remove it")


def _path(state: Path, name: str) -> Path:
    """A coordinator chooses the names of its runs: no other file than one of these."""
    try:
        msgspec.convert(name, RunId)
    except msgspec.ValidationError as error:
        raise StateError(f"{one_line(name)!r} is not the name of a run") from error
    return state / "heads" / f"{name}.json"
