"""Frozen parts of models on the card: each is fetched once, for all rounds and starts."""

import contextlib
import logging
import os
from pathlib import Path

from flctl.digests import has_digest
from flctl.files import explained, make_folder, new_file
from flctl.transport.blobs import Blob
from flctl.wire.messages import CHUNK_BYTES, Digest

logger = logging.getLogger(__name__)

KEPT = 2


class FrozenParts:
    """Files in `folder`, named by their digests, which are checked at their first use."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._checked: set[Digest] = set()

    def get(self, digest: Digest) -> Path | None:
        """The file, if it is here and whole."""
        path = self._path(digest)
        if digest in self._checked and path.exists():
            return path
        if not path.exists():
            return None
        if not has_digest(path, digest):
            logger.warning("%s is damaged; it is fetched again", path)
            with explained(path, "remove it"):
                path.unlink()
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        self._checked.add(digest)
        return path

    def keep(self, blob: Blob) -> None:
        """Write it down durably; the oldest go. Raises StateError."""
        make_folder(self._folder)
        path = self._path(blob.digest)
        with explained(path, "keep the frozen part of a model"):
            with new_file(path, 0o600) as file:
                for offset in range(0, blob.size, CHUNK_BYTES):
                    file.write(blob.read(offset, CHUNK_BYTES))
            there = sorted(self._folder.glob("[!.]*"), key=lambda p: p.stat().st_mtime_ns)
            for old in [other for other in there if other != path][: max(0, len(there) - KEPT)]:
                old.unlink()
        self._checked.add(blob.digest)

    def _path(self, digest: Digest) -> Path:
        return self._folder / f"{digest}.safetensors"
