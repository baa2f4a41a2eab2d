"""Blobs (model parameters, named by their sha256) at rest; `download` and `credit` move them."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from flctl.errors import StateError
from flctl.files import explained
from flctl.transport.credit import Credit, ServeQueue
from flctl.transport.download import WINDOW, Download
from flctl.wire.messages import Digest

RESERVE_BYTES = 64 * 1024 * 1024
"""What a blob on the disk leaves free there, for everything else on the device."""

__all__ = ["WINDOW", "Blob", "BlobStore", "Credit", "Download", "ServeQueue"]


class Blob:
    """A whole blob behind an open file descriptor; owns it."""

    def __init__(
        self, fd: int, digest: Digest, size: int, on_close: Callable[[int], None] | None = None
    ) -> None:
        self.fd, self.digest, self.size = fd, digest, size
        self._on_close = on_close

    def read(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset`; fewer at the end, none beyond it."""
        try:
            return os.pread(self.fd, max(0, min(length, self.size - offset)), offset)
        except OSError as error:
            raise StateError(f"blob {self.digest[:12]}: cannot read: {error.strerror}") from error

    def close(self) -> None:
        """Give the memory or disk space back; closing twice does nothing."""
        fd, self.fd = self.fd, -1
        if fd < 0:
            return
        if self._on_close is not None:
            self._on_close(fd)
        os.close(fd)


class BlobStore:
    """Room for blobs: in memory up to a limit, beyond it in files without a name.

    Nothing is left behind, however the process ends.
    """

    def __init__(self, memory_limit_bytes: int, spill_folder: Path) -> None:
        self.memory_limit_bytes = memory_limit_bytes
        self.memory_bytes = 0
        """Taken in memory now."""
        self._spill = spill_folder
        self._disk_bytes = 0
        self._in_memory: dict[int, int] = {}
        self._on_disk: set[int] = set()

    @property
    def written_bytes(self) -> int:
        """Bytes that this store has put on the disk since it was made."""
        return self._disk_bytes + sum(os.fstat(fd).st_size for fd in self._on_disk)

    def fits(self, size: int) -> bool:
        """Whether there is room for it in memory."""
        free = self.memory_limit_bytes - self.memory_bytes
        return size <= free and hasattr(os, "memfd_create")

    def new(self, size: int) -> int:
        """An empty file of its own for about `size` bytes: its descriptor, read and write.

        It becomes a blob by `adopt`, or is given up by `drop`. Raises StateError, also where the
        disk has no room for all of it.
        """
        if self.fits(size):
            fd = os.memfd_create("flctl-blob", os.MFD_CLOEXEC)
            self._in_memory[fd] = size
            self.memory_bytes += size
            return fd
        with explained(self._spill, "store a blob"):
            self._spill.mkdir(mode=0o700, parents=True, exist_ok=True)
            free = shutil.disk_usage(self._spill).free
            if free < size + RESERVE_BYTES:
                raise StateError(
                    f"{self._spill}: a blob of {size >> 20} MiB does not fit: {free >> 20} MiB "
                    f"are free, and {RESERVE_BYTES >> 20} stay free; make room"
                )
            fd, name = tempfile.mkstemp(prefix=".blob-", dir=self._spill)
            Path(name).unlink()
        self._on_disk.add(fd)
        return fd

    def adopt(self, fd: int, digest: Digest, size: int) -> Blob:
        """Own `fd`, which holds the whole blob; it may come from elsewhere (a worker)."""
        if fd in self._on_disk:
            return Blob(fd, digest, size, self._release)
        if fd not in self._in_memory and not is_in_memory(fd):
            self._on_disk.add(fd)
            return Blob(fd, digest, size, self._release)
        self.memory_bytes += size - self._in_memory.get(fd, 0)
        self._in_memory[fd] = size
        return Blob(fd, digest, size, self._release)

    def drop(self, fd: int) -> None:
        """Close a descriptor of `new` that did not become a blob."""
        self._release(fd)
        with contextlib.suppress(OSError):
            os.close(fd)

    def _release(self, fd: int) -> None:
        if fd in self._on_disk:
            self._on_disk.remove(fd)
            self._disk_bytes += os.fstat(fd).st_size
        self.memory_bytes -= self._in_memory.pop(fd, 0)


def is_in_memory(fd: int) -> bool:
    """Whether `fd` is an anonymous file in memory, as `os.memfd_create` makes them."""
    try:
        return str(Path(f"/proc/self/fd/{fd}").readlink()).startswith("/memfd:")
    except OSError:
        return False
