"""Messages of `flctl.worker.jobs` over a Unix socket pair, with file descriptors.

A message is `[length: 4 bytes][1 if a descriptor goes along: 1 byte][msgpack]`. Blobs never
pass through: they are files without a name, so that nothing is left when a process is
killed.
"""

import array
import contextlib
import os
import socket
import struct
import tempfile
from collections import deque
from typing import Any, Generic, TypeVar

import msgspec

from flctl.errors import MalformedMessage, WorkerError, decoded

MESSAGE_BYTES = 1024 * 1024
"""The most that a message takes. Only the sums of an evaluation are larger than an empty socket
buffer: the worker's send waits for its reader then."""

_HEADER = struct.Struct(">I?")
_RECEIVE_BYTES = 64 * 1024
_EXTRA_BYTES = socket.CMSG_LEN(8 * array.array("i").itemsize)
# Without it a worker's own children would inherit the blobs (Linux only; else 0).
_CLOEXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)

M = TypeVar("M")


class Unpacker(Generic[M]):
    """Puts messages together from pieces of any length."""

    def __init__(self, union: Any) -> None:
        self._decoder: msgspec.msgpack.Decoder[M] = msgspec.msgpack.Decoder(union)
        self._bytes = bytearray()
        self._fds: deque[int] = deque()

    def feed(self, data: bytes, fds: list[int]) -> list[tuple[M, int | None]]:
        """All messages that are complete now. Raises MalformedMessage."""
        self._bytes += data
        self._fds.extend(fds)
        complete: list[tuple[M, int | None]] = []
        while len(self._bytes) >= _HEADER.size:
            length, with_fd = _HEADER.unpack_from(self._bytes)
            end = _HEADER.size + length
            if length > MESSAGE_BYTES:
                raise MalformedMessage(f"a worker message of {length} bytes")
            if len(self._bytes) < end:
                break
            body = bytes(self._bytes[_HEADER.size : end])
            del self._bytes[:end]
            message = self._decode(body)
            if with_fd and not self._fds:
                raise MalformedMessage("a worker message without the file that goes with it")
            complete.append((message, self._fds.popleft() if with_fd else None))
        return complete

    def close(self) -> None:
        """Close the descriptors whose message never became complete."""
        while self._fds:
            os.close(self._fds.popleft())

    def _decode(self, body: bytes) -> M:
        with decoded(MalformedMessage, "a worker message does not decode"):
            return self._decoder.decode(body)


class Pipe(Generic[M]):
    """One end; receives messages of `union`. Several threads may send only under a lock."""

    def __init__(self, end: socket.socket, union: Any) -> None:
        self._socket = end
        self._unpacker: Unpacker[M] = Unpacker(union)
        self.ended = False
        """The other end is closed: nothing more will come."""

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, message: msgspec.Struct, fd: int | None = None) -> None:
        """Send `message` and a copy of `fd`. Raises OSError when the other end is gone."""
        body = msgspec.msgpack.encode(message)
        if len(body) > MESSAGE_BYTES:
            name = type(message).__name__
            raise WorkerError(f"{name}: {len(body)} bytes, a worker takes {MESSAGE_BYTES} at most")
        data = memoryview(_HEADER.pack(len(body), fd is not None) + body)
        if fd is not None:
            data = data[socket.send_fds(self._socket, [data], [fd]) :]
        self._socket.sendall(data)

    def receive(self) -> list[tuple[M, int | None]]:
        """Wait for one piece; the messages that it completes. `ended` reports the end."""
        return self._receive(0)

    def receive_now(self) -> list[tuple[M, int | None]]:
        """Everything that has arrived, without waiting."""
        messages: list[tuple[M, int | None]] = []
        with contextlib.suppress(BlockingIOError):
            while not self.ended:
                messages += self._receive(socket.MSG_DONTWAIT)
        return messages

    def close(self) -> None:
        self._unpacker.close()
        self._socket.close()

    def _receive(self, flags: int) -> list[tuple[M, int | None]]:
        try:
            # Not socket.recv_fds: it takes flags and forgets them (Python 3.11).
            data, extra, _, _ = self._socket.recvmsg(_RECEIVE_BYTES, _EXTRA_BYTES, flags | _CLOEXEC)
        except BlockingIOError:
            raise
        except OSError:  # reset by the other end, or closed by another thread of this one
            data, extra = b"", []
        self.ended = not data
        fds: array.array[int] = array.array("i")
        for level, kind, content in extra:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
        return self._unpacker.feed(data, list(fds))


def nameless_file(what: str) -> int:
    """A new file descriptor to write and read, in memory where the system can, that
    leaves nothing behind when the process dies."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create(what, os.MFD_CLOEXEC)
    with tempfile.TemporaryFile(prefix="flctl-") as file:
        return os.dup(file.fileno())
