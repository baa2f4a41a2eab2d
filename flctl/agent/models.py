"""The models that rounds start from: fetched in chunks, kept for this round and the last; their
frozen parts on the card."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from flctl.agent.frozen import FrozenParts
from flctl.errors import MalformedMessage
from flctl.transport.blobs import Blob, BlobStore
from flctl.transport.channel import Frame
from flctl.transport.download import Download
from flctl.wire.messages import Chunk, Coded, Digest, Fetch, Model

logger = logging.getLogger(__name__)

KEPT = 2
STALLED_S = 10.0
"""Chunks that do not come for so long are asked for again."""


class Here(NamedTuple):
    """A model of which all is here."""

    shared: Blob
    frozen: Path | None


class Models:
    """Fetches one blob at a time; `send` gives a request to the coordinator, or says False."""

    def __init__(
        self, store: BlobStore, frozen: FrozenParts, send: Callable[[Fetch], bool]
    ) -> None:
        self._store, self._frozen = store, frozen
        self._send = send
        self._kept: dict[Digest, Blob] = {}
        self._download: Download | None = None
        self._sink = -1

    @property
    def fetching(self) -> Digest | None:
        return self._download.blob if self._download else None

    def get(self, model: Model) -> Here | None:
        """All of it, if that is here; else what is missing is fetched from now on.

        Raises StateError without room.
        """
        frozen = None
        if model.frozen is not None and (frozen := self._frozen.get(model.frozen.blob)) is None:
            if (rest := self._kept.pop(model.frozen.blob, None)) is None:
                self._want(model.frozen.blob, model.frozen.size)
                return None
            try:
                self._frozen.keep(rest)
            finally:
                rest.close()
            frozen = self._frozen.get(model.frozen.blob)
        if (shared := self._kept.get(model.shared.blob)) is None:
            self._want(model.shared.blob, model.shared.size)
            return None
        return Here(shared, frozen)

    def fetch_ahead(self, shared: Coded) -> None:
        """Fetch the tensors of a model that is not ordered yet, where memory has room for them."""
        here = self._download is not None or shared.blob in self._kept
        if not here and self._store.fits(shared.size):
            self._want(shared.blob, shared.size)

    def _want(self, digest: Digest, size: int) -> None:
        """Fetch this blob from now on, and none else."""
        if self.fetching == digest:
            return
        self.give_up()
        self._sink = self._store.new(size)
        self._download = Download(digest, size, self._sink)

    def pump(self, now: float) -> None:
        """Ask for what is due; what could not be sent stays due."""
        download = self._download
        if download is None:
            return
        if download.stalled(now, STALLED_S):
            download.restart(now)
        requests = download.requests(now)
        for number, fetch in enumerate(requests):
            if not self._send(fetch):
                for unsent in requests[number:]:
                    download.unsent(unsent)
                return

    def on_welcome(self, now: float) -> None:
        """The connection is new: what was asked for on the old one will not come."""
        if self._download is not None:
            self._download.restart(now)

    def on_chunk(self, chunk: Chunk, payload: Frame, now: float) -> Digest | None:
        """Store it; the digest of the blob when it is whole.

        Raises MalformedMessage for bytes that were not asked for, ModelDamaged when the whole
        is not what its name says, StateError when the disk fails.
        """
        download = self._download
        if download is None or chunk.blob != download.blob:
            return None  # of a blob that is no longer wanted
        download.on_chunk(chunk.offset, payload, now)
        if not download.done:
            return None
        self.pump(now)  # confirms to the sender that everything has arrived
        self._finish(download)
        return download.blob

    def give_up(self) -> None:
        """Stop fetching."""
        if self._download is not None:
            self._store.drop(self._sink)
            self._download = None

    def close(self) -> None:
        self.give_up()
        while self._kept:
            self._kept.popitem()[1].close()

    def _finish(self, download: Download) -> None:
        try:
            download.finish()
        except MalformedMessage as error:
            self.give_up()
            raise ModelDamaged(str(error)) from error
        self._download = None
        self._kept[download.blob] = self._store.adopt(self._sink, download.blob, download.size)
        while len(self._kept) > KEPT:
            self._kept.pop(next(iter(self._kept))).close()
        logger.debug("blob=%s bytes=%d is here", download.blob[:12], download.size)


class ModelDamaged(MalformedMessage):
    """All chunks have come, but together they are not the blob of that name."""
