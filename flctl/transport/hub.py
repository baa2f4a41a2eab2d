"""The coordinator's sockets: one for the fleet, one for control from this machine."""

import contextlib
import errno
import math
import os
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import zmq

from flctl.errors import StateError
from flctl.process import undisturbed
from flctl.transport import sockets
from flctl.transport.addresses import Address, control_address, parse_address, to_bind
from flctl.transport.channel import LOCAL, Frame, Incoming, Sent
from flctl.transport.gate import Gate
from flctl.transport.guard import Guard
from flctl.transport.keypair import KeyPair
from flctl.transport.ledger import Quotas, agent_share
from flctl.transport.zap import DOMAIN, Authorise, Gatekeeper

BACKLOG = 1_024
BATCH = 256
"""Messages handed out by one `receive`, so that a flood does not keep the loop from its clock."""
FRAMES_EXCUSED = 64
"""Beyond a message's three, that is how many are no reason to end the connection."""
_FLEETS, _CONTROL = (b"f", b"g"), b"c"
"""Marks of the sockets: of the fleet's there are two while the server has two keys."""


class _Fleet(NamedTuple):
    """A socket of the fleet: its public key, its guard, and a duplicate of its listening socket."""

    public: str
    guard: Guard
    listening: socket.socket


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
        shares: Quotas = agent_share,
    ) -> None:
        if bind is not None and server_keys is None:
            raise ValueError("the fleet socket needs the server's key pair")
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._sockets: dict[bytes, zmq.Socket[bytes]] = {}
        self._inboxes: dict[bytes, sockets.Inbox] = {}
        self._monitor: zmq.Socket[bytes] | None = None
        """Monitor of the control socket; the other sockets have guards."""
        self._fleets: dict[bytes, _Fleet] = {}
        self._gate, self._shares = gate or Gate(), shares
        self._gatekeeper: Gatekeeper | None = None
        self._lost = self._closed = False
        self._control: Path | None = None
        self._woken, self._waker = socket.socketpair()
        self._woken.setblocking(False)
        self._waker.setblocking(False)
        self.endpoint: str | None = None
        """HOST:PORT of the fleet socket, with the port that it got."""
        # A context waits for its sockets for ever, also for one that is not noted yet.
        with undisturbed():
            try:
                if bind is not None and server_keys is not None:
                    self._gatekeeper = Gatekeeper(self._context, authorise, self._gate)
                    self._open_fleet(to_bind(parse_address(bind, lowest_port=0)), server_keys)
                if control is not None:
                    self._open_control(control_address(control))
            except BaseException:
                self.close()
                raise

    def listen_also(self, keys: KeyPair) -> None:
        """Answer on the same port with these keys, too. A peer that dials meets one of the two at
        random, and dials again until it has met the one that it knows. Raises StateError."""
        if any(fleet.public == keys.public for fleet in self._fleets.values()):
            return
        first = next(iter(self._fleets.values()))
        first.listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._open_fleet(parse_address(str(self.endpoint)), keys, shared=True)

    def listen_only(self, keys: KeyPair) -> None:
        """Answer with this pair only; connections that know the other one are ended."""
        others = [mark for mark, fleet in self._fleets.items() if fleet.public != keys.public]
        if len(others) == len(self._fleets):
            last = others.pop()  # it holds the port while the new one takes its place beside it
            self._hang_up(others)
            self.listen_also(keys)
            others = [last]
        self._hang_up(others)

    def _hang_up(self, marks: list[bytes]) -> None:
        for mark in marks:
            sock, fleet = self._sockets.pop(mark), self._fleets.pop(mark)
            del self._inboxes[mark]
            fleet.listening.close()
            sock.disable_monitor()
            sock.close()
            fleet.guard.stop()
            self._lost = True

    def receive(self) -> Iterator[Incoming]:
        for mark, inbox in list(self._inboxes.items()):
            guard = self._fleets[mark].guard if mark in self._fleets else None
            for _ in range(BATCH):
                frames = inbox.receive()
                if frames is None:
                    if guard is not None:
                        guard.on_empty()
                    break
                if not frames:  # amid a message that is thrown away: the others' turn
                    break
                key = LOCAL if mark == _CONTROL else _key_of(frames)
                if key is None:
                    continue
                if guard is not None:
                    guard.on_read(frames[1:], key, broken=inbox.skipped > FRAMES_EXCUSED)
                if len(frames) > 1 and not inbox.skipped:
                    peer = mark + frames[0].bytes
                    yield Incoming(peer, key, sockets.contents(frames[1:]), _origin_of(frames))

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
        # The sockets first: a client that connects meanwhile must find no server, not a refusal.
        for fleet in self._fleets.values():
            fleet.listening.close()
        for sock in self._sockets.values():
            sock.disable_monitor()
            sock.close()
        for fleet in self._fleets.values():
            fleet.guard.stop()
        if self._monitor is not None:
            self._monitor.close(linger=0)
        if self._gatekeeper is not None:
            self._gatekeeper.close()
        self._sockets, self._inboxes = {}, {}
        self._monitor, self._fleets = None, {}
        self._context.term()
        if self._control is not None:
            with contextlib.suppress(OSError):  # a disk that may only be read
                self._control.unlink()  # libzmq leaves it behind
        self._woken.close()
        self._waker.close()

    def _open_fleet(self, address: Address, keys: KeyPair, shared: bool = False) -> None:
        mark = next(mark for mark in _FLEETS if mark not in self._fleets)
        listening = _listen(address, shared)
        try:
            host, port = listening.getsockname()[:2]
            bound = Address(host, port)
            sock = self._router(mark, sockets.FLEET_QUEUE_MESSAGES)
            sock.setsockopt(zmq.RCVHWM, sockets.FLEET_WAITING_MESSAGES)
            sock.setsockopt(zmq.CURVE_SERVER, 1)
            sock.setsockopt(zmq.CURVE_SECRETKEY, keys.secret.encode())
            # Both, or any client that knows the server's public key is admitted.
            sock.setsockopt(zmq.ZAP_DOMAIN, DOMAIN)
            sock.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
            sock.setsockopt(zmq.IPV6, int(address.is_ipv6))
            sock.setsockopt(zmq.USE_FD, listening.fileno())
            guard = Guard(sock, self._shares, self._on_lost, self._gate)
            self._fleets[mark] = _Fleet(keys.public, guard, listening.dup())
            sock.bind(bound.endpoint)
            listening.detach()  # it is the socket's now
        finally:
            listening.close()
        self.endpoint = str(bound)

    def _open_control(self, address: str) -> None:
        sock = self._router(_CONTROL, sockets.QUEUE_MESSAGES)
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
        self._inboxes[mark] = sockets.Inbox(sock, 1 + sockets.MESSAGE_FRAMES)
        sockets.set_common(sock, queue)
        sock.setsockopt(zmq.ROUTER_MANDATORY, 1)
        return sock

    def _drain_monitor(self) -> None:
        while self._monitor is not None and sockets.receive(self._monitor, 2) is not None:
            self._lost = True

    def _on_lost(self) -> None:
        self._lost = True
        self.wake()


def _origin_of(frames: list[zmq.Frame]) -> str:
    try:
        return str(frames[-1]["Peer-Address"])
    except zmq.ZMQError:
        return ""


def _listen(address: Address, shared: bool) -> socket.socket:
    """Our own and not libzmq's, so that two sockets can have one port. Raises StateError."""
    sock = socket.socket(socket.AF_INET6 if address.is_ipv6 else socket.AF_INET)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if address.is_ipv6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((address.host, address.port))
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        where = f"port {address.port} on {address.host}"
        if error.errno == errno.EADDRINUSE:
            raise StateError(
                f"{where} is in use: another coordinator or program has it; "
                "stop that, or choose another port with --bind HOST:PORT"
            ) from error
        raise StateError(f"{where} cannot be opened: {error.strerror}") from error
    return sock


def _key_of(frames: list[zmq.Frame]) -> str | None:
    """The key that the connection was authenticated with; None, so dropped, if there is none."""
    try:
        return str(frames[-1]["User-Id"]) if frames else None
    except zmq.ZMQError:
        return None
