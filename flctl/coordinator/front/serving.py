"""Serves model blobs to agents and operators, a few chunks at a time, fairly."""

import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from flctl.files import explained
from flctl.transport.blobs import Credit, ServeQueue
from flctl.transport.channel import Sent
from flctl.transport.credit import CLOSING_OFFSET
from flctl.wire.messages import BlobGone, Chunk, Digest, Fetch, Message

logger = logging.getLogger(__name__)

WINDOW = 8
BUDGET = 32
"""Chunks on their way at a time to all peers together: 8 MiB."""
CACHE = 16
"""Chunks that are kept in memory, 4 MiB: agents that are invited together want the same."""
SHELF = 8
"""Blobs that can be fetched: the newest of the run, and the newest that operators asked for."""

_closing = ThreadPoolExecutor(max_workers=1, thread_name_prefix="close")
"""The last descriptor of a removed model frees its blocks: orders would wait for that."""

Send = Callable[[bytes, Message, bytes | None], Sent]


class Serving:
    def __init__(self, send: Send) -> None:
        self._send = send
        self._of_run: dict[Digest, int] = {}
        self._asked: dict[Digest, int] = {}
        """A shelf of their own, so that reading clients cannot displace a round's model."""
        self._cache: dict[tuple[Digest, int, int], bytes] = {}
        self._queue: ServeQueue[bytes] = ServeQueue(Credit(BUDGET, WINDOW))

    def put(self, digest: Digest, path: Path, *, asked: bool = False) -> None:
        """Serve `digest` from this file; it may be renamed or removed meanwhile.

        `asked`: by an operator, not for a round. What was served under this digest before is
        forgotten: it may have been damaged. Raises StateError when the file cannot be opened.
        """
        shelf = self._asked if asked else self._of_run
        with explained(path, "read the model"):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._take_off(shelf, digest)
        shelf[digest] = fd
        while len(shelf) > SHELF:
            self._take_off(shelf, next(iter(shelf)))

    def _take_off(self, shelf: dict[Digest, int], digest: Digest) -> None:
        if digest not in shelf:
            return
        _closing.submit(os.close, shelf.pop(digest))
        for wanted in [wanted for wanted in self._cache if wanted[0] == digest]:
            del self._cache[wanted]

    def _shelf_of(self, digest: Digest) -> dict[Digest, int] | None:
        """A round's own file is preferred to an identical one that a client asked for."""
        return next((shelf for shelf in (self._of_run, self._asked) if digest in shelf), None)

    def on_fetch(self, peer: bytes, fetch: Fetch) -> None:
        if self._shelf_of(fetch.blob) is None and fetch.offset != CLOSING_OFFSET:
            self._send(peer, BlobGone(blob=fetch.blob), None)
            return
        self._queue.add(peer, fetch)
        self.pump()

    def on_gone(self, peer: bytes) -> None:
        self._queue.forget(peer)
        self.pump()

    def pump(self) -> None:
        """Send what the credit allows."""
        slow: set[bytes] = set()
        """Their queues are full: again at the next tick, and meanwhile it is the others' turn."""
        while (turn := self._queue.next(but=slow)) is not None:
            peer, fetch = turn
            shelf = self._shelf_of(fetch.blob)
            if shelf is None:
                self._send(peer, BlobGone(blob=fetch.blob), None)
                continue
            try:
                payload = self._read(shelf[fetch.blob], fetch)
            except OSError as error:
                logger.error("a model to send cannot be read: %s", error)
                self._take_off(shelf, fetch.blob)
                self._send(peer, BlobGone(blob=fetch.blob), None)
                continue
            sent = self._send(peer, Chunk(blob=fetch.blob, offset=fetch.offset), payload)
            if sent is Sent.GONE:
                self._queue.forget(peer)
            elif sent is Sent.SLOW:
                self._queue.unsent(turn)
                slow.add(peer)

    def _read(self, fd: int, fetch: Fetch) -> bytes:
        wanted = (fetch.blob, fetch.offset, fetch.length)
        if wanted not in self._cache:
            self._cache[wanted] = os.pread(fd, fetch.length, fetch.offset)
            if len(self._cache) > CACHE:
                del self._cache[next(iter(self._cache))]
        return self._cache[wanted]

    def close(self) -> None:
        for shelf in (self._of_run, self._asked):
            for digest in list(shelf):
                self._take_off(shelf, digest)
