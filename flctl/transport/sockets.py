"""Common parts of flctl's ZeroMQ sockets: options, and receiving a message."""

import zmq

from flctl.transport.channel import Frame
from flctl.wire.messages import CHUNK_BYTES

HEARTBEAT_MS = 5_000
HEARTBEAT_TIMEOUT_MS = 20_000
"""Also sent as the peer's time to live, which overflows above 65.5 s."""
HANDSHAKE_MS = 5_000
FRAME_BYTES = CHUNK_BYTES + 64 * 1024
"""The limit of libzmq is on one frame as it travels, encrypted and with its marks."""
MESSAGE_FRAMES = 3
"""Prefix, message, payload."""
_READABLE = int(zmq.POLLIN)
QUEUE_MESSAGES = 1_000
"""Per peer and direction."""
FLEET_QUEUE_MESSAGES = 32
"""To each peer of the coordinator's fleet socket. One that asks for chunks and reads nothing has
so many kept for it, 8 MiB; an honest one has a window of 8 and a few words on the way."""
FLEET_WAITING_MESSAGES = 0
"""From each of them; 0: any number, and `guard` bounds their bytes. When such a queue is full, the
connection breaks, and a heartbeat falls due or is behind what did not fit in, libzmq 4.3.5 ends
the process (issues 3937 and 4364 of zeromq/libzmq): a peer that floods could end it at will. A
queue without a limit is never full."""
SKIPPED_FRAMES = 4_096
"""Read in one go of a message that is thrown away: some 4 ms."""


def set_common(sock: "zmq.Socket[bytes]", queue: int = QUEUE_MESSAGES) -> None:
    """Set heartbeats and limits, and no lingering at close."""
    sock.setsockopt(zmq.LINGER, 0)
    sock.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
    sock.setsockopt(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS)
    sock.setsockopt(zmq.HEARTBEAT_TTL, HEARTBEAT_TIMEOUT_MS)
    sock.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
    sock.setsockopt(zmq.MAXMSGSIZE, FRAME_BYTES)
    sock.setsockopt(zmq.SNDHWM, queue)
    sock.setsockopt(zmq.RCVHWM, queue)


class Inbox:
    """Messages of one socket, of `most` frames; of longer ones only their number of frames is
    counted. Those are read in pieces, so that the clock is not kept waiting."""

    def __init__(self, sock: "zmq.Socket[bytes]", most: int) -> None:
        self.sock = sock
        self._most = most
        self._amid = False
        self.skipped = 0
        """Frames of the message that is being thrown away, or was."""

    def receive(self) -> list[zmq.Frame] | None:
        """The next message's frames; with `skipped` set, the first ones of too long a message;
        empty in the midst of one; None if there is none."""
        if self._amid:
            self._skip()
            return []
        # Asking first is ten times cheaper than the exception that an empty queue raises.
        if not int(self.sock.getsockopt(zmq.EVENTS)) & _READABLE:
            return None
        self.skipped = 0
        frames: list[zmq.Frame] = []
        while len(frames) < self._most:
            frame = self.sock.recv(zmq.NOBLOCK, copy=False)
            frames.append(frame)
            if not frame.more:
                return frames
        self._skip()
        return frames

    def _skip(self) -> None:
        for _ in range(SKIPPED_FRAMES):
            self.skipped += 1
            if not self.sock.recv(zmq.NOBLOCK, copy=False).more:
                self._amid = False
                return
        self._amid = True


def receive(sock: "zmq.Socket[bytes]", most: int) -> list[zmq.Frame] | None:
    """The next message's frames; empty if it has more than `most`, None if there is none."""
    if not int(sock.getsockopt(zmq.EVENTS)) & _READABLE:
        return None
    frames: list[zmq.Frame] = []
    while True:
        frame = sock.recv(zmq.NOBLOCK, copy=False)
        if len(frames) <= most:
            frames.append(frame)
        if not frame.more:
            break
    return frames if len(frames) <= most else []


def contents(frames: list[zmq.Frame]) -> list[Frame]:
    """Prefix and message as bytes; the payload stays where libzmq has put it."""
    return [frame.bytes if index < 2 else frame.buffer for index, frame in enumerate(frames)]
