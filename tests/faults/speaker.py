"""Peers that say what a test wants: an enrolled agent by hand, and strangers."""

import contextlib
import hashlib
import socket
import threading
import time
from collections.abc import Callable, Sequence

import zmq
from bed import UNDER, Bed

from flctl.errors import MalformedMessage
from flctl.transport.channel import Frame, LinkEvent
from flctl.transport.keypair import KeyPair, load_or_make
from flctl.transport.zeromq import ZeroMqLink
from flctl.wire import framing
from flctl.wire.messages import (
    DatasetInfo,
    Device,
    Heartbeat,
    Hello,
    Message,
    Ping,
    Pong,
    Telemetry,
)

TASKS = ("specks", "boulder", "mountain")
BEAT_S = 2.0
Hears = Callable[["Speaker", Message], None]


def hello() -> Hello:
    digest = hashlib.sha256((UNDER / "fault_tasks.py").read_bytes()).hexdigest()
    return Hello(
        session="5" * 32,
        version="by hand",
        role="train",
        device=Device(kind="by hand", arch="any", cores=1, memory_bytes=1),
        tasks=dict.fromkeys(TASKS, digest),
        datasets=tuple(DatasetInfo(name="default", task=task, examples=10) for task in TASKS),
    )


class Speaker:
    """An agent with the key of `name` that answers pings, says its heartbeats, and else does
    what `hears` does with each message."""

    def __init__(self, bed: Bed, name: str, hears: Hears = lambda *_: None) -> None:
        keys = load_or_make(bed.folder / name / "agent.key")
        self.link = ZeroMqLink(f"127.0.0.1:{bed.port}", keys, bed.server_key)
        self.heard: list[Message] = []
        self._hears = hears
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def say(self, message: Message, payload: Frame | None = None) -> bool:
        """From `hears` only: a link is for one thread."""
        return self.link.send(framing.encode(message, payload))

    def close(self) -> None:
        self._ends.set()
        self._thread.join(20)
        self.link.close()

    def _run(self) -> None:
        decode, sequence, beat_at = framing.to_agent(), 0, float("inf")
        while not self._ends.is_set():
            self.link.wait(0.1)
            for event in self.link.events():
                if event is LinkEvent.CONNECTED:
                    self.say(hello())
                    beat_at = time.monotonic()
            for frames in self.link.receive():
                _, message, _ = decode(frames)
                self.heard.append(message)
                if isinstance(message, Ping):
                    self.say(Pong(sequence=message.sequence))
                self._hears(self, message)
            if time.monotonic() >= beat_at:
                self.say(Heartbeat(sequence=sequence, state="ready", telemetry=Telemetry()))
                sequence, beat_at = sequence + 1, time.monotonic() + BEAT_S


class Strangers:
    """Connections that nobody has let in; a context manager."""

    def __init__(self, bed: Bed) -> None:
        self._port, self._server_key = bed.port, bed.server_key
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
        self._context.set(zmq.MAX_SOCKETS, 4096)
        self._plain: list[socket.socket] = []
        self._socks: list[zmq.Socket[bytes]] = []

    def __enter__(self) -> "Strangers":
        return self

    def __exit__(self, *_: object) -> None:
        self.hang_up()
        self._context.term()

    def dial(self, pair: KeyPair | None = None, receive_queue: int = 1000) -> "zmq.Socket[bytes]":
        """A DEALER with a key, unknown unless it is given."""
        pair = pair or KeyPair.make()
        sock = self._context.socket(zmq.DEALER)
        sock.setsockopt(zmq.LINGER, 0)
        sock.setsockopt(zmq.RCVHWM, receive_queue)
        sock.setsockopt(zmq.CURVE_SERVERKEY, self._server_key.encode())
        sock.setsockopt(zmq.CURVE_PUBLICKEY, pair.public.encode())
        sock.setsockopt(zmq.CURVE_SECRETKEY, pair.secret.encode())
        sock.connect(f"tcp://127.0.0.1:{self._port}")
        self._socks.append(sock)
        return sock

    def plain(self) -> socket.socket:
        """A TCP connection that says nothing by itself."""
        sock = socket.create_connection(("127.0.0.1", self._port), timeout=20)
        self._plain.append(sock)
        return sock

    def hang_up(self) -> None:
        for sock in (*self._plain, *self._socks):
            sock.close()
        self._plain.clear()
        self._socks.clear()


def is_closed(sock: socket.socket, within_s: float) -> bool:
    """Whether the other side ends the connection."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        sock.settimeout(max(0.01, until - time.monotonic()))
        try:
            if not sock.recv(65536):
                return True
        except TimeoutError:
            return False
        except OSError:
            return True
    return False


def answers(sock: "zmq.Socket[bytes]", within_s: float) -> list[Message]:
    """What comes back, as far as it is a message to an agent."""
    found: list[Message] = []
    decode, until = framing.to_agent(), time.monotonic() + within_s
    while sock.poll(max(0, int(1000 * (until - time.monotonic())))):
        with contextlib.suppress(MalformedMessage):
            found.append(decode(sock.recv_multipart())[1])
    return found


def send(sock: "zmq.Socket[bytes]", frames: Sequence[Frame]) -> bool:
    try:
        sock.send_multipart(frames, zmq.NOBLOCK)
    except zmq.Again:
        return False
    return True
