"""Serves model blobs to agents and operators, a few chunks at a time, fairly."""

import logging
import os
from collections.abc import Callable
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
"""Blobs that can be fetched: the newest ones."""

Send = Callable[[bytes, Message, bytes | None], Sent]


class Serving:
    def __init__(self, send: Send) -> None:
        self._send = send
        self._files: dict[Digest, int] = {}
        self._cache: dict[tuple[Digest, int, int], bytes] = {}
        self._queue: ServeQueue[bytes] = ServeQueue(Credit(BUDGET, WINDOW))

    def put(self, digest: Digest, path: Path) -> None:
        """Serve `digest` from this file; it may be renamed or removed meanwhile.

        Raises StateError when it cannot be opened.
        """
        if digest in self._files:
            self._files[digest] = self._files.pop(digest)
            return
        with explained(path, "read the model"):
            self._files[digest] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        while len(self._files) > SHELF:
            os.close(self._files.pop(next(iter(self._files))))

    def on_fetch(self, peer: bytes, fetch: Fetch) -> None:
        if fetch.blob not in self._files and fetch.offset != CLOSING_OFFSET:
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
            fd = self._files.get(fetch.blob)
            if fd is None:
                self._send(peer, BlobGone(blob=fetch.blob), None)
                continue
            try:
                payload = self._read(fd, fetch)
            except OSError as error:
                logger.error("a model that is to be sent cannot be read: %s", error)
                os.close(self._files.pop(fetch.blob))
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
        for fd in self._files.values():
            os.close(fd)
        self._files.clear()
