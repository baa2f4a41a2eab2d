"""Closes connections of the fleet socket that send more than the coordinator can have read.

libzmq keeps every frame of a message until its last one has come, however many there are, and
bounds only the size of one frame and the number of whole messages. So this counts from outside:
what the kernel has received on a connection, less what was read from it as messages. On a thread
of its own: an unfinished message never wakes the coordinator.
"""

import contextlib
import errno
import fcntl
import logging
import os
import resource
import socket
import struct
import sys
import termios
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

import zmq

from flctl.transport.gate import STRANGER, Gate
from flctl.transport.keypair import shown
from flctl.transport.ledger import Ledger, Quotas, Verdict
from flctl.transport.sockets import receive

logger = logging.getLogger(__name__)

LOOK_MS = 20
"""While there are connections. At the speed of a loopback some 10 MB come meanwhile."""
SWEEP_S = 0.25
GROWN_BYTES = 2 * 1024 * 1024
"""All connections are looked at when the process has grown by this, and else every SWEEP_S."""
MOST_CONNECTIONS = 4_096
FILES_EACH = 3
"""Open files for each connection, at most: its own, ours, and one to spare."""
_TCP_INFO_BYTES = 136
_BYTES_RECEIVED = 128
"""Offset of tcpi_bytes_received (Linux 4.1), on 32 and on 64 bits."""
_ACCEPTED, _LOST, _STOPPED = (zmq.EVENT_ACCEPTED, zmq.EVENT_DISCONNECTED, zmq.EVENT_MONITOR_STOPPED)
_PAGE = resource.getpagesize()
_FRAME_BYTES = 33
"""What CURVE adds to a frame, besides two or nine bytes of ZMTP before it."""


class Guard:
    """Watches `sock`, a ROUTER, which must not be bound yet. `on_lost` is called on its thread
    when a connection was closed.

    `stop` ends it, once monitoring of the socket was disabled.
    """

    def __init__(
        self, sock: "zmq.Socket[bytes]", shares: Quotas, on_lost: Callable[[], None], gate: Gate
    ) -> None:
        self._on_lost, self._gate = on_lost, gate
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = files // FILES_EACH if files != resource.RLIM_INFINITY else MOST_CONNECTIONS
        self._ledger = Ledger(shares, min(MOST_CONNECTIONS, most))
        self._ours: dict[int, socket.socket] = {}
        """Duplicates of libzmq's descriptors: their numbers are ours until we close them."""
        self._read: deque[tuple[int, str, int, int]] = deque()
        self._broken: deque[tuple[int, str]] = deque()
        self._turn = 0
        self._sweep_at = 0.0
        self._statm = _open_statm()
        self._memory = self._resident()
        self._ends = False
        if not counts_bytes():
            logger.error(
                "this kernel does not count the bytes of a connection (TCP_INFO): what peers send "
                "is not bounded; give the coordinator a memory limit"
            )
        self._monitor = sock.get_monitor_socket(_ACCEPTED | _LOST | _STOPPED)
        self._thread = threading.Thread(target=self._run, name="flctl-guard", daemon=True)
        self._thread.start()

    # For the thread that reads the socket -------------------------------------------------

    def on_read(self, frames: Sequence[zmq.Frame], key: str, broken: bool = False) -> None:
        """A message was read: its frames, without its routing id. `broken`: no honest peer has
        sent it."""
        if not frames:
            return
        fd = int(frames[0].get(zmq.SRCFD))
        self._read.append((fd, key, sum(wire_bytes(len(frame)) for frame in frames), self._turn))
        if broken:
            self._broken.append((fd, key))

    def on_empty(self) -> None:
        """All messages have been read."""
        self._turn += 1

    def stop(self) -> None:
        self._ends = True
        self._thread.join()
        self._monitor.close(linger=0)
        for ours in self._ours.values():
            ours.close()
        self._ours.clear()
        if self._statm is not None:
            os.close(self._statm)

    # Its own thread -----------------------------------------------------------------------

    def _run(self) -> None:
        while not self._ends:
            try:
                self._monitor.poll(LOOK_MS if self._ours else 1000)
                self._step(time.monotonic())
            except Exception as error:  # libzmq blocks forever once its events are not read
                self._gate.bug(logger, "(guard)", error, "connections could not be looked at")
                time.sleep(LOOK_MS / 1000)

    def _step(self, now: float) -> None:
        # In this order: who is read was accepted before.
        turn, reads, broken = self._turn, len(self._read), len(self._broken)
        self._on_events()
        for _ in range(reads):
            self._ledger.read(*self._read.popleft())
        for _ in range(broken):
            fd, key = self._broken.popleft()
            connection = self._ledger.get(fd)
            if connection is not None and connection.key in (None, key):
                self._close(self._ledger.verdict(connection, "a message of far too many frames"))
        memory = self._resident()
        grown = memory >= self._memory + GROWN_BYTES
        self._memory = memory if grown else min(memory, self._memory)
        if grown or now >= self._sweep_at or not memory:
            self._sweep_at = now + SWEEP_S
            self._sweep(turn, now)

    def _resident(self) -> int:
        """Resident bytes of this process; 0 where that is unknown."""
        if self._statm is None:
            return 0
        return int(os.pread(self._statm, 128, 0).split()[1]) * _PAGE

    def _on_events(self) -> None:
        while (frames := receive(self._monitor, 2)) is not None:
            event, fd = struct.unpack("=Hi", frames[0].bytes)
            ours = self._ours.pop(fd, None)
            if ours is not None:
                ours.close()
            if event == _ACCEPTED:
                self._ledger.opened(fd, self._turn)
                # It may be closed again by now, and the number be that of something else. Then the
                # event that says so is there already, and is taken before anything is looked at.
                ours = _duplicate(fd)
                if ours is not None:
                    self._ours[fd] = ours
            elif event == _LOST:
                self._ledger.closed(fd, self._turn)
                self._on_lost()

    def _sweep(self, turn: int, now: float) -> None:
        for connection in self._ledger:
            ours = self._ours.get(connection.fd)
            if ours is None:
                continue
            with contextlib.suppress(OSError):
                if self._ledger.reading(connection, _received(ours)):
                    self._ledger.mark(connection, _unread(ours), self._turn)
        for verdict in self._ledger.judge(now, turn):
            self._close(verdict)

    def _close(self, verdict: Verdict) -> None:
        connection = verdict.connection
        connection.closing = True
        ours = self._ours.get(connection.fd)
        if ours is not None:
            # libzmq sees the end, frees what it holds of an unfinished message, and closes.
            with contextlib.suppress(OSError):
                ours.shutdown(socket.SHUT_RDWR)
        known = verdict.source or STRANGER
        key = shown(connection.key or "unknown")
        self._gate.warning(logger, known, "key=%s connection closed: %s", key, verdict.reason)


def wire_bytes(size: int) -> int:
    """Bytes on the wire of a frame of `size` bytes, encrypted."""
    body = size + _FRAME_BYTES
    return body + (2 if body <= 255 else 9)


def counts_bytes() -> bool:
    """Whether this kernel says how much a connection has received."""
    try:
        with (
            socket.create_server(("127.0.0.1", 0)) as server,
            socket.create_connection(server.getsockname(), timeout=5) as one,
        ):
            one.sendall(b"12")
            other, _ = server.accept()
            with other:
                other.settimeout(5)
                return other.recv(2, socket.MSG_WAITALL) == b"12" and _received(other) == 2
    except OSError:
        return False


def _duplicate(fd: int) -> socket.socket | None:
    """None when the connection is closed already, or had to be closed for want of open files."""
    try:
        own = os.dup(fd)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            with contextlib.suppress(OSError), socket.socket(fileno=fd) as unguarded:
                unguarded.shutdown(socket.SHUT_RDWR)
                unguarded.detach()
        return None
    try:
        return socket.socket(fileno=own)
    except OSError:  # the number no longer belongs to a socket
        os.close(own)
        return None


def _received(sock: socket.socket) -> int:
    """Bytes that came on this connection so far; 0 where the kernel does not count them."""
    if not hasattr(socket, "TCP_INFO"):
        return 0
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    if len(info) < _TCP_INFO_BYTES:
        return 0
    return int.from_bytes(info[_BYTES_RECEIVED:], sys.byteorder)


def _unread(sock: socket.socket) -> int:
    """Bytes that the kernel still has."""
    return int(struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.FIONREAD, bytes(4)))[0])


def _open_statm() -> int | None:
    try:
        return os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
