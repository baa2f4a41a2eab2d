"""The coordinator's sockets: one for the fleet, one for control from this machine."""

import contextlib
import errno
import math
import os
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

import zmq

from flctl.errors import StateError
from flctl.transport.addresses import control_address, parse_address, to_bind
from flctl.transport.channel import LOCAL, Frame, Incoming, Sent
from flctl.transport.gate import Gate
from flctl.transport.guard import Guard
from flctl.transport.keypair import KeyPair
from flctl.transport.ledger import Shares, agent_share
from flctl.transport.sockets import (
    FLEET_QUEUE_MESSAGES,
    FLEET_WAITING_MESSAGES,
    MESSAGE_FRAMES,
    QUEUE_MESSAGES,
    Inbox,
    contents,
    receive,
    set_common,
)
from flctl.transport.zap import DOMAIN, Authorise, Gatekeeper

BACKLOG = 1_024
BATCH = 256
"""Messages handed out by one `receive`, so that a flood does not keep the loop from its clock."""
FRAMES_EXCUSED = 64
"""Beyond a message's three, that is how many are no reason to end the connection."""
_FLEET, _CONTROL = b"f", b"c"


class ZeroMqHub:
    """Implements `channel.Hub`. `wake` is for any thread, all else for one.

    `bind` is HOST:PORT, port 0 for any that is free, None for no fleet socket; `control` is
    the state folder whose control socket is to be opened. A key must pass `authorise`, which
    runs on another thread; it is not asked again while the connection lasts, but `shares` is: it
    says what the connections of a key may hold, and None ends them (see `ledger`).

    Raises StateError when an address cannot be had, UsageError when it is none.
    """

    def __init__(
        self,
        bind: str | None,
        server_keys: KeyPair | None,
        authorise: Authorise,
        control: Path | None = None,
        gate: Gate | None = None,
        shares: Shares = agent_share,
    ) -> None:
        if bind is not None and server_keys is None:
            raise ValueError("the fleet socket needs the server's key pair")
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._sockets: dict[bytes, zmq.Socket[bytes]] = {}
        self._inboxes: dict[bytes, Inbox] = {}
        self._monitor: zmq.Socket[bytes] | None = None
        """Of the control socket; the other one has a guard."""
        self._guard: Guard | None = None
        self._gatekeeper: Gatekeeper | None = None
        self._lost = self._closed = False
        self._control: Path | None = None
        self._woken, self._waker = socket.socketpair()
        self._woken.setblocking(False)
        self._waker.setblocking(False)
        self.endpoint: str | None = None
        """HOST:PORT of the fleet socket, with the port that it got."""
        try:
            if bind is not None and server_keys is not None:
                gate = gate or Gate()
                self._gatekeeper = Gatekeeper(self._context, authorise, gate)
                self._open_fleet(bind, server_keys, shares, gate)
            if control is not None:
                self._open_control(control_address(control))
        except BaseException:
            self.close()
            raise

    def receive(self) -> Iterator[Incoming]:
        for mark, inbox in self._inboxes.items():
            for _ in range(BATCH):
                frames = inbox.receive()
                if frames is None:
                    if mark == _FLEET and self._guard is not None:
                        self._guard.on_empty()
                    break
                if not frames:  # amid a message that is thrown away: the others' turn
                    break
                key = LOCAL if mark == _CONTROL else _key_of(frames)
                if key is None:
                    continue
                if mark == _FLEET and self._guard is not None:
                    self._guard.on_read(frames[1:], key, broken=inbox.skipped > FRAMES_EXCUSED)
                if len(frames) > 1 and not inbox.skipped:
                    peer = mark + frames[0].bytes
                    yield Incoming(peer, key, contents(frames[1:]), _origin_of(frames))

    def send(self, peer: bytes, frames: Sequence[Frame]) -> Sent:
        sock = self._sockets.get(peer[:1])
        if sock is None:
            return Sent.GONE
        try:
            sock.send_multipart([peer[1:], *frames], zmq.NOBLOCK)
        except zmq.Again:
            return Sent.SLOW
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            return Sent.GONE
        return Sent.OK

    def lost_connections(self) -> bool:
        """The peer itself is known to be GONE a few milliseconds later."""
        self._drain_monitor()
        lost, self._lost = self._lost, False
        return lost

    def wait(self, timeout_s: float, readable: Sequence[int] = ()) -> None:
        poller = zmq.Poller()
        for fd in readable:
            poller.register(fd, zmq.POLLIN)
        for sock in (*self._sockets.values(), self._monitor):
            if sock is not None:
                poller.register(sock, zmq.POLLIN)
        poller.register(self._woken.fileno(), zmq.POLLIN)
        poller.poll(max(0, math.ceil(timeout_s * 1000)))
        self._drain_monitor()
        with contextlib.suppress(BlockingIOError):
            while self._woken.recv(64):
                pass

    def wake(self) -> None:
        # A full buffer means that it is being woken already.
        with contextlib.suppress(BlockingIOError, OSError):
            self._waker.send(b"w")

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        # The sockets first: a client that knocks meanwhile must find nobody, not a refusal.
        for sock in self._sockets.values():
            sock.disable_monitor()
            sock.close()
        if self._guard is not None:
            self._guard.stop()
        if self._monitor is not None:
            self._monitor.close(linger=0)
        if self._gatekeeper is not None:
            self._gatekeeper.close()
        self._sockets, self._inboxes = {}, {}
        self._monitor = self._guard = None
        self._context.term()
        if self._control is not None:
            with contextlib.suppress(OSError):  # a disk that may only be read
                self._control.unlink()  # libzmq leaves it behind
        self._woken.close()
        self._waker.close()

    def _open_fleet(self, bind: str, keys: KeyPair, shares: Shares, gate: Gate) -> None:
        address = to_bind(parse_address(bind, lowest_port=0))
        sock = self._router(_FLEET, FLEET_QUEUE_MESSAGES)
        sock.setsockopt(zmq.RCVHWM, FLEET_WAITING_MESSAGES)
        sock.setsockopt(zmq.CURVE_SERVER, 1)
        sock.setsockopt(zmq.CURVE_SECRETKEY, keys.secret.encode())
        # Both, or whoever knows the server's public key gets in.
        sock.setsockopt(zmq.ZAP_DOMAIN, DOMAIN)
        sock.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        sock.setsockopt(zmq.BACKLOG, BACKLOG)
        sock.setsockopt(zmq.IPV6, int(address.is_ipv6))
        self._guard = Guard(sock, shares, self._on_lost, gate)
        try:
            sock.bind(address.endpoint)
        except zmq.ZMQError as error:
            where = f"port {address.port} on {address.host}"
            if error.errno == errno.EADDRINUSE:
                raise StateError(
                    f"{where} is in use: another coordinator or program has it; "
                    "stop that, or choose another port with --bind HOST:PORT"
                ) from error
            reason = os.strerror(error.errno or 0)
            raise StateError(f"{where} cannot be opened: {reason}") from error
        bound = parse_address(sock.getsockopt_string(zmq.LAST_ENDPOINT).removeprefix("tcp://"))
        self.endpoint = str(bound)

    def _open_control(self, address: str) -> None:
        sock = self._router(_CONTROL, QUEUE_MESSAGES)
        self._monitor = sock.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        path = Path(address.removeprefix("ipc://"))
        before = os.umask(0o177)
        try:
            sock.bind(address)
            self._control = path
        except zmq.ZMQError as error:
            reason = os.strerror(error.errno or 0)
            raise StateError(f"{path}: cannot open the control socket: {reason}") from error
        finally:
            os.umask(before)

    def _router(self, mark: bytes, queue: int) -> "zmq.Socket[bytes]":
        sock = self._context.socket(zmq.ROUTER)
        self._sockets[mark] = sock
        self._inboxes[mark] = Inbox(sock, 1 + MESSAGE_FRAMES)
        set_common(sock, queue)
        sock.setsockopt(zmq.ROUTER_MANDATORY, 1)
        return sock

    def _drain_monitor(self) -> None:
        while self._monitor is not None and receive(self._monitor, 2) is not None:
            self._lost = True

    def _on_lost(self) -> None:
        self._lost = True
        self.wake()


def _origin_of(frames: list[zmq.Frame]) -> str:
    try:
        return str(frames[-1]["Peer-Address"])
    except zmq.ZMQError:
        return ""


def _key_of(frames: list[zmq.Frame]) -> str | None:
    """The key that the connection was let in with; None, so dropped, if there is none."""
    try:
        return str(frames[-1]["User-Id"]) if frames else None
    except zmq.ZMQError:
        return None
