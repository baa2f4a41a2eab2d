"""Where the updates of a simulated round are until they are averaged."""

import contextlib
import resource

from flctl.coordinator.store.folder import RunFolder
from flctl.core.events import UpdateStored
from flctl.digests import has_digest
from flctl.files import explained
from flctl.fleet.processes import Blob

MEMORY = 64 * 2**20
"""Bytes of a round's updates that are kept in memory."""
LONG_S = 0.5
"""An update that took this long gets a file in the run's folder, so that it survives `kill -9`; the
others are made again, with the same bytes, in less time than a file is worth."""


class Spool:
    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self.held: dict[str, Blob] = {}
        """Files in memory, by agent."""
        self._bytes = 0

    def put(self, update: UpdateStored, blob: Blob) -> None:
        """Raises StateError."""
        if update.seconds < LONG_S and self._bytes + len(blob) <= MEMORY:
            self.held[update.agent] = blob
            self._bytes += len(blob)
            return
        _allow_many_files()
        path = self._folder.make_spool(update.round) / f"{update.agent}.safetensors"
        with explained(path, "store an update"):
            path.write_bytes(blob)

    def has(self, update: UpdateStored) -> bool:
        """Whether its bytes are here, and are what the journal says."""
        path = self._folder.spool_path(update.round) / f"{update.agent}.safetensors"
        return update.agent in self.held or has_digest(path, update.blob)

    def clear(self) -> None:
        self.held.clear()
        self._bytes = 0


def _allow_many_files() -> None:
    """As many as this account may open: all updates of a round are open while they are averaged."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
