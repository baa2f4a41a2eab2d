"""Finished updates: kept until the coordinator has them safe or does not want them."""

import logging
from collections import deque
from collections.abc import Callable

from msgspec import Struct

from flctl.transport.blobs import Blob
from flctl.transport.channel import Frame
from flctl.transport.credit import CLOSING_OFFSET
from flctl.wire.messages import BlobGone, Chunk, Fetch, Message, UpdateReady, WorkKey

logger = logging.getLogger(__name__)

KEPT = 4
"""Maximum number of unanswered updates; beyond it the oldest is forgotten."""
QUEUE = 64
"""Requests for chunks that may wait; an honest coordinator has fewer."""


class _Held(Struct):
    offer: UpdateReady
    blob: Blob
    offer_at: float


class Updates:
    """`send` gives a message to the coordinator, or says False: then it stays due."""

    def __init__(self, send: Callable[[Message, Frame | None], bool], offer_s: float) -> None:
        self._send = send
        self._offer_s = offer_s
        self._held: dict[WorkKey, _Held] = {}
        self._requests: deque[Fetch] = deque()

    def __contains__(self, key: WorkKey) -> bool:
        return key in self._held

    def __len__(self) -> int:
        return len(self._held)

    @property
    def backlog(self) -> bool:
        """Chunks wait for room in the connection's queue."""
        return bool(self._requests)

    def hold(self, offer: UpdateReady, blob: Blob, now: float) -> None:
        """Keep an update and offer it from now on; owns `blob`."""
        self.forget(offer.key)
        self._held[offer.key] = _Held(offer, blob, now)
        while len(self._held) > KEPT:
            oldest = next(iter(self._held))
            logger.warning("round=%d update forgotten: %d newer ones wait", oldest.round, KEPT)
            self.forget(oldest)

    def offer_again(self, now: float, key: WorkKey | None = None) -> None:
        """One update, or all: the coordinator may have lost earlier offers."""
        for held in self._held.values():
            if key is None or held.offer.key == key:
                held.offer_at = now

    def pump(self, now: float) -> None:
        """Make the offers that are due and serve the chunks that were asked for."""
        for held in self._held.values():
            if now >= held.offer_at and self._send(held.offer, None):
                held.offer_at = now + self._offer_s
        while self._requests and self._serve(self._requests[0]):
            self._requests.popleft()

    def on_fetch(self, fetch: Fetch) -> None:
        whole = fetch.offset == CLOSING_OFFSET  # all chunks have arrived there
        if not whole and len(self._requests) < QUEUE:
            self._requests.append(fetch)

    def on_disconnected(self) -> None:
        self._requests.clear()

    def forget(self, key: WorkKey) -> bool:
        """Forget an update that the coordinator has stored or does not want. Returns whether it
        was here."""
        held = self._held.pop(key, None)
        if held is None:
            return False
        held.blob.close()
        return True

    def on_cancel(self, run: str) -> None:
        for key in [key for key in self._held if key.run == run]:
            self.forget(key)

    def close(self) -> None:
        for key in list(self._held):
            self.forget(key)

    def _serve(self, fetch: Fetch) -> bool:
        """Whether the request is answered; False: later."""
        held = next((h for h in self._held.values() if h.offer.update.blob == fetch.blob), None)
        if held is None:
            return self._send(BlobGone(blob=fetch.blob), None)
        payload = held.blob.read(fetch.offset, fetch.length)
        return self._send(Chunk(blob=fetch.blob, offset=fetch.offset), payload)
