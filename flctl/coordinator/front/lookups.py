"""What a watcher is sent of a run's past; read on a thread of its own, off the loop."""

from pathlib import Path
from typing import NamedTuple

import msgspec

from flctl.coordinator.store.folder import RunFolder
from flctl.coordinator.store.journal import published
from flctl.core.stream import Published

PAST_EVENTS = 2000
PAST_BYTES = 4 * 1024 * 1024
"""What a watcher is sent of a run's past at a time, at most."""


class Past(NamedTuple):
    run: str
    events: list[Published]
    more: bool
    """There are others after them."""


def look_at_past(state: Path, run: str, after: int) -> Past:
    """The next events after that number. Raises FlctlError, OSError."""
    folder = RunFolder.find(state, run)
    found, left = Past(folder.name, [], False), PAST_BYTES
    for told in published(folder.journal_path, after):
        left -= len(msgspec.msgpack.encode(told))
        if len(found.events) == PAST_EVENTS or (left < 0 and found.events):
            return found._replace(more=True)
        found.events.append(told)
    return found
