"""One operator who watches a run: its past, then what happens, each event once."""

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec

from flctl.coordinator.front.outbox import Outbox
from flctl.coordinator.front.turns import Asked
from flctl.coordinator.store.folder import RunFolder
from flctl.coordinator.store.journal import published
from flctl.core.stream import Followed, Published

PAST_EVENTS = 2000
PAST_BYTES = 4 * 1024 * 1024
"""Maximum bytes of a run's past that a watcher is sent at a time."""


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


class Subscriber:
    """To be called with every event that happens, from before its past is read."""

    def __init__(
        self, operators: Outbox, asked: Asked, after: int, may_read: Callable[[str], bool]
    ) -> None:
        """`may_read` is asked about the key."""
        self.asked = asked
        self._operators, self._may_read = operators, may_read
        self._run: str | None = None
        self._followed = Followed(after)
        self._early: deque[Published] = deque(maxlen=PAST_EVENTS)
        """Events that were published while the past was being read."""

    def begin(self, past: Past) -> None:
        self._run = past.run
        # Where more of the past follows, the watcher asks again.
        for told in (*past.events, *(() if past.more else self._early)):
            self(told)
        self._early.clear()

    def __call__(self, told: Published) -> None:
        if self._run is None:
            self._early.append(told)
        elif told.run in ("", self._run) and self._followed.is_new(told):
            if self._may_read(self.asked.key):
                self._operators.event(self.asked.to, self.asked.ask.id, told)
            else:
                self._operators.drop(self.asked.to.peer)  # revoked meanwhile
