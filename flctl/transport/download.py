"""Pulling one blob in chunks: a window of requests, resumable, checked at the end."""

import contextlib
import hashlib
import os
from pathlib import Path

from flctl.errors import MalformedMessage
from flctl.files import failure
from flctl.transport.channel import Frame
from flctl.transport.credit import CLOSING_OFFSET, closing, receipt
from flctl.wire.messages import CHUNK_BYTES, Digest, Fetch

WINDOW = 8
"""Chunks asked for at a time: 2 MiB keep a fast link busy."""


class Download:
    """A blob of `size` bytes on its way into the file descriptor `sink` (read and write).

    The first `have` bytes of `sink` may be there already, from an earlier attempt. Chunks
    may come in any order and more than once. Pure but for the writes to `sink`.
    """

    def __init__(
        self,
        blob: Digest,
        size: int,
        sink: int,
        *,
        window: int = WINDOW,
        chunk: int = CHUNK_BYTES,
        have: int = 0,
    ) -> None:
        self.blob, self.size = blob, size
        self._sink, self._window, self._chunk = sink, window, chunk
        self._hash = hashlib.sha256()
        self._hashed = 0
        self._early: set[int] = set()
        """Offsets of chunks that have arrived before an earlier one."""
        self._asked: set[int] = set()
        self._next = self._limit = 0
        """The next offset to ask for, and the highest ever asked for."""
        self._moved_s: float | None = None
        self._to_acknowledge = 0
        """Chunks that have arrived since the last `requests`."""
        self._closed = False
        # Whole chunks only: a torn last one is fetched again.
        whole = size if have >= size else have - have % chunk
        while self._hashed < whole:
            self._take_in(self._length(self._hashed))
        self._next = self._limit = min(self._hashed, size)

    @property
    def received(self) -> int:
        """Bytes that have arrived."""
        return self._hashed + sum(self._length(offset) for offset in self._early)

    @property
    def done(self) -> bool:
        return self._hashed == self.size

    def peek(self) -> Fetch | None:
        """What to ask for next; None while the window is full or nothing is missing.

        Tell with `asked` once it is sent.
        """
        # What was asked for last may have arrived since.
        self._next = max(self._next, self._hashed)
        while self._next in self._early or self._next in self._asked:
            self._next += self._chunk
        if self._next >= self.size or len(self._asked) >= self._window:
            return None
        return Fetch(blob=self.blob, offset=self._next, length=self._length(self._next))

    def asked(self, fetch: Fetch, now: float | None = None) -> None:
        """`fetch` is on its way."""
        self._asked.add(fetch.offset)
        self._limit = max(self._limit, fetch.offset + fetch.length)
        self._moved_s = now

    def requests(self, now: float | None = None) -> list[Fetch]:
        """All that is to be said to the sender now, taken as sent; `unsent` takes one back.

        Where there is nothing more to ask for, that is a receipt: the sender counts what it
        has under way (see `credit.ServeQueue`). So call it after every chunk.
        """
        fetches: list[Fetch] = []
        while (fetch := self.peek()) is not None:
            self.asked(fetch, now)
            fetches.append(fetch)
        unspoken, self._to_acknowledge = self._to_acknowledge - len(fetches), 0
        if self.done and not self._closed:
            self._closed = True
            fetches.append(closing(self.blob))
        elif unspoken > 0 and not self.done:
            fetches.append(receipt(self.blob, unspoken))
        return fetches

    def unsent(self, fetch: Fetch) -> None:
        """A request could not be sent: it comes again."""
        if fetch == closing(self.blob):
            self._closed = False
        elif fetch.offset == CLOSING_OFFSET:
            self._to_acknowledge += fetch.length
        else:
            self._asked.discard(fetch.offset)
            self._next = min(self._next, fetch.offset)

    def on_chunk(self, offset: int, payload: Frame, now: float | None = None) -> None:
        """Store what has arrived; what is there already is ignored.

        Raises MalformedMessage for what was never asked for, StateError when the disk fails.
        """
        if offset % self._chunk or not 0 <= offset < self._limit:
            raise MalformedMessage(f"blob {self.blob[:12]}: a chunk at {offset} was not asked for")
        if len(payload) != self._length(offset):
            raise MalformedMessage(
                f"blob {self.blob[:12]}: a chunk of {len(payload)} bytes at {offset}, "
                f"{self._length(offset)} expected"
            )
        if offset in self._asked:
            self._asked.remove(offset)
            self._to_acknowledge += 1
        if offset < self._hashed or offset in self._early:
            return
        self._write(payload, offset)
        self._moved_s = now
        if offset != self._hashed:
            self._early.add(offset)
            return
        self._hash.update(payload)
        self._hashed += len(payload)
        while self._hashed in self._early:
            self._early.remove(self._hashed)
            self._take_in(self._length(self._hashed))

    def restart(self, now: float | None = None) -> None:
        """After a reconnection or a stall: request all missing chunks again."""
        self._asked.clear()
        self._to_acknowledge = 0
        self._next = self._hashed
        self._moved_s = now

    def stalled(self, now: float, after_s: float) -> bool:
        """Whether requested chunks have not come for `after_s` seconds."""
        if self._moved_s is None:
            self._moved_s = now
        return bool(self._asked) and now - self._moved_s >= after_s

    def finish(self) -> None:
        """Raises MalformedMessage when the blob is not whole or not what its name says."""
        if not self.done:
            raise MalformedMessage(
                f"blob {self.blob[:12]}: {self.received} of {self.size} bytes have arrived"
            )
        if self._hash.hexdigest() != self.blob:
            raise MalformedMessage(
                f"blob {self.blob[:12]}: its content has the digest {self._hash.hexdigest()[:12]}"
            )

    def _length(self, offset: int) -> int:
        return min(self._chunk, self.size - offset)

    def _take_in(self, length: int) -> None:
        """Hash bytes that are in the sink already."""
        self._hash.update(os.pread(self._sink, length, self._hashed))
        self._hashed += length

    def _write(self, payload: Frame, offset: int) -> None:
        view = memoryview(payload)
        try:
            while view:
                written = os.pwrite(self._sink, view, offset)
                view, offset = view[written:], offset + written
        except OSError as error:
            sink = Path(f"/proc/self/fd/{self._sink}")
            with contextlib.suppress(OSError):
                sink = sink.readlink()
            raise failure(error, sink, f"store blob {self.blob[:12]}") from error
