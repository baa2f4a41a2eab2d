"""Makes a simulated round durable while the next one trains: one group commit for all of it.

A power cut may undo the last round and its events; the round is repeated, with the
same bytes. Until a round is durable, the model of the one before stays.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from flctl.coordinator.store.journal import Journal
from flctl.core.events import AnyEvent, Journaled, RoundCommitted
from flctl.core.stream import AnyLive, Published
from flctl.files import explained

APPEND_S = 0.2
"""Events within a round are appended to the journal and published this often."""


class Commits:
    """Events in their order, to the journal and to `publish`; `on_durable` gets each round when it
    is. All is called from the thread that calls the methods. They raise StateError when the disk
    fails."""

    def __init__(
        self,
        journal: Journal,
        publish: Callable[[Published], None],
        on_durable: Callable[[RoundCommitted], None],
    ) -> None:
        self._journal, self._publish, self._on_durable = journal, publish, on_durable
        self._run = journal.path.parent.name
        self._untold: deque[AnyEvent | AnyLive] = deque()
        self._unwritten: list[AnyEvent] = []
        """Those of them that are not in the journal."""
        self._append_at = 0.0
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="commit")
        self._syncing: tuple[Future[None], RoundCommitted] | None = None

    def add(self, event: AnyEvent | AnyLive, written: bool = False) -> None:
        """`written`: it is in the journal."""
        self._untold.append(event)
        if isinstance(event, Journaled) and not written:
            self._unwritten.append(event)
        self.look()

    def look(self) -> None:
        """Do what is due."""
        if self._syncing is not None and self._syncing[0].done():
            self.wait()
        if self._unwritten and time.monotonic() >= self._append_at:
            self._append()
        self.tell()

    def commit(self, event: RoundCommitted, files: Sequence[Path], *, first: bool) -> None:
        """The round is in the journal then, and durable later; with `first` its files are durable
        before. `tell` publishes it."""
        self.wait()
        if first:
            _sync(files)
        self._untold.append(event)
        self._unwritten.append(event)
        self._append()

        def sync() -> None:
            if not first:
                _sync(files)
            self._journal.sync()

        self._syncing = self._pool.submit(sync), event

    def wait(self) -> None:
        """Until the last round is durable."""
        if self._syncing is not None:
            (future, event), self._syncing = self._syncing, None
            future.result()
            self._on_durable(event)

    def tell(self) -> None:
        while self._untold and not (self._unwritten and self._untold[0] is self._unwritten[0]):
            event = self._untold.popleft()
            # An event outside the journal, or lost to a full disk, has no number.
            told = list(self._journal.told(event)) if isinstance(event, Journaled) else []
            for each in told or [Published(self._run, event)]:
                self._publish(each)

    def drop(self) -> None:
        """Forget what is not in the journal."""
        dropped = {*map(id, self._unwritten)}
        self._untold = deque(each for each in self._untold if id(each) not in dropped)
        self._unwritten = []

    def close(self) -> None:
        self._pool.shutdown()

    def _append(self) -> None:
        self._journal.append(self._unwritten, sync=False)
        self._unwritten = []
        self._append_at = time.monotonic() + APPEND_S


def _sync(files: Sequence[Path]) -> None:
    for path in files:
        with explained(path, "make it durable"):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
