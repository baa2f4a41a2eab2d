"""The agent's or operator's socket: one connection that keeps dialling home."""

import contextlib
import errno
import logging
import math
import random
import struct
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import zmq

from flctl.process import undisturbed
from flctl.transport.addresses import check_name, parse_address
from flctl.transport.channel import Frame, LinkEvent
from flctl.transport.diagnosis import Diagnosis
from flctl.transport.keypair import KeyPair
from flctl.transport.sockets import MESSAGE_FRAMES, contents, receive, set_common

logger = logging.getLogger(__name__)

RECONNECT_MS = (200, 1_000)
WRONG_KEY_RETRY_S = 10.0
REDIAL_S = (0.2, 0.4)
"""After a peer hung up. While a server key is replaced, two sockets share the port at random: the
one with the known key has to be met before HUNG_UP_S."""
HUNG_UP_S = 5.0
"""A peer that hangs up for so long has another server key. Before, it may be a coordinator that
stops, or that starts behind something which accepts its connections already, as Docker does."""
BATCH = 256
_HUNG_UP = (errno.EPIPE, errno.ECONNRESET)
"""The other side has ended the handshake. A slow one that ran out of time says EAGAIN."""
_WATCHED = (
    zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_DISCONNECTED
)


def _abandon(context: "zmq.Context[zmq.Socket[bytes]]", sockets: "list[zmq.Socket[bytes]]") -> None:
    """End a link that was dropped without `close`. pyzmq closes only sockets that are not collected
    at the same time, and would wait for the others for ever."""
    if not context.closed:
        for sock in sockets:
            sock.close(linger=0)
        context.term()


class _Dealer:
    """Base of both links: a DEALER, its monitor, and the monitor's events."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._told: deque[LinkEvent] = deque()
        self._connected = False
        self._retry_at: float | None = None
        self._hung_up_since: float | None = None
        self._sockets: list[zmq.Socket[bytes]] = []
        weakref.finalize(self, _abandon, self._context, self._sockets).atexit = False
        with undisturbed():  # the context waits for its sockets for ever, also for half a one
            self._open()

    def send(self, frames: Sequence[Frame]) -> bool:
        # For some milliseconds after a disconnection libzmq would still take what it then loses.
        if not self._connected:
            self._watch()
        if not self._connected:
            return False
        try:
            self._socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def receive(self) -> Iterator[list[Frame]]:
        for _ in range(BATCH):
            frames = receive(self._socket, MESSAGE_FRAMES)
            if frames is None:
                return
            if frames:
                yield contents(frames)

    def events(self) -> Iterator[LinkEvent]:
        self._watch()
        while self._told:
            yield self._told.popleft()

    def wait(self, timeout_s: float, readable: Sequence[int] = ()) -> None:
        self._retry_if_due()
        if self._retry_at is not None:
            timeout_s = min(timeout_s, self._retry_at - time.monotonic())
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._monitor, zmq.POLLIN)
        for fd in readable:
            poller.register(fd, zmq.POLLIN)
        poller.poll(max(0, math.ceil(timeout_s * 1000)))
        self._watch()

    def reopen(self) -> None:
        self._hung_up_since = None
        self._redial()

    def _redial(self) -> None:
        with undisturbed():
            self._shut()
            self._open()

    def close(self) -> None:
        if not self._context.closed:
            with undisturbed():
                self._shut()
            self._context.term()

    def _set_options(self, sock: "zmq.Socket[bytes]") -> None:
        set_common(sock)
        # Without it a queue survives the connection and is delivered to the next coordinator.
        sock.setsockopt(zmq.IMMEDIATE, 1)

    def _open(self) -> None:
        self._retry_at = None
        self._socket = self._context.socket(zmq.DEALER)
        self._set_options(self._socket)
        self._monitor = self._socket.get_monitor_socket(_WATCHED)
        self._sockets[:] = self._socket, self._monitor
        self._socket.connect(self._address)

    def _shut(self) -> None:
        self._watch()
        if self._connected:
            self._connected = False
            self._told.append(LinkEvent.DISCONNECTED)
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close(linger=0)

    def _watch(self) -> None:
        while (frames := receive(self._monitor, 2)) is not None:
            self._on_event(*struct.unpack("=Hi", frames[0].bytes))

    def _on_event(self, event: int, value: int) -> None:
        logger.debug("address=%s %s value=%d", self._address, zmq.Event(event).name, value)
        match event:
            case zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._connected = True
                self._hung_up_since = None
                self._told.append(LinkEvent.CONNECTED)
            case zmq.EVENT_DISCONNECTED if self._connected:
                self._connected = False
                self._told.append(LinkEvent.DISCONNECTED)
            case zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                self._told.append(LinkEvent.KEY_REFUSED)
            case zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL if value in _HUNG_UP:
                now = time.monotonic()
                if self._hung_up_since is None:
                    self._hung_up_since = now
                if now - self._hung_up_since >= HUNG_UP_S:
                    self._on_wrong_key()
                else:
                    self._retry_in(random.uniform(*REDIAL_S))
            case zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
                self._on_wrong_key()

    def _on_wrong_key(self) -> None:
        self._hung_up_since = None
        if self._try_another_key():
            self._retry_in(RECONNECT_MS[0] / 1000)
        else:
            self._told.append(LinkEvent.SERVER_KEY_WRONG)
            self._retry_in(WRONG_KEY_RETRY_S)

    def _retry_in(self, seconds: float) -> None:
        """libzmq by itself would retry at full speed, or stop retrying."""
        self._retry_at = time.monotonic() + seconds
        with contextlib.suppress(zmq.ZMQError):
            self._socket.disconnect(self._address)

    def _try_another_key(self) -> bool:
        """Whether there is one that was not tried since the last connection."""
        return False

    def _retry_if_due(self) -> None:
        if self._retry_at is not None and time.monotonic() >= self._retry_at:
            self._redial()


class ZeroMqLink(_Dealer):
    """Implements `channel.Link` over CURVE. All methods are for one thread.

    After KEY_REFUSED nothing more is tried until `reopen`; after SERVER_KEY_WRONG it is,
    every 10 s, or at once by `reopen`. `endpoint` is HOST:PORT, `server_key` the public key
    of the coordinator, or several of which it has one, tried in their order. Raises UsageError
    for a bad address.
    """

    def __init__(
        self,
        endpoint: str,
        own: KeyPair,
        server_key: str | Sequence[str],
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.address = parse_address(endpoint)
        check_name(self.address)
        self._diagnosis = Diagnosis(self.address)
        self._own = own
        self._server_keys = (server_key,) if isinstance(server_key, str) else tuple(server_key)
        self._turn = self._tried = 0
        # Random per agent: RECONNECT_IVL_MAX would take all jitter away.
        self._reconnect_ms = int(uniform(*RECONNECT_MS))
        super().__init__(self.address.endpoint)

    def trouble(self) -> str | None:
        return self._diagnosis.trouble()

    def use_server_keys(self, keys: Sequence[str]) -> None:
        current = self._server_keys[self._turn]
        self._server_keys, self._tried = tuple(keys), 0
        if current in keys:
            self._turn = self._server_keys.index(current)
        else:
            self._turn = 0
            self.reopen()

    def _on_event(self, event: int, value: int) -> None:
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._tried = 0
        super()._on_event(event, value)

    def _try_another_key(self) -> bool:
        self._turn = (self._turn + 1) % len(self._server_keys)
        self._tried += 1
        if self._tried < len(self._server_keys):
            return True
        self._tried = 0
        return False

    def _set_options(self, sock: "zmq.Socket[bytes]") -> None:
        super()._set_options(sock)
        sock.setsockopt(zmq.RECONNECT_IVL, self._reconnect_ms)
        sock.setsockopt(zmq.IPV6, int(self.address.is_ipv6))
        sock.setsockopt(zmq.CURVE_SERVERKEY, self._server_keys[self._turn].encode())
        sock.setsockopt(zmq.CURVE_PUBLICKEY, self._own.public.encode())
        sock.setsockopt(zmq.CURVE_SECRETKEY, self._own.secret.encode())


class ControlLink(_Dealer):
    """A link to the coordinator on this machine, at `addresses.control_address(state)`."""

    def trouble(self) -> str | None:
        return "no coordinator runs here"

    def use_server_keys(self, keys: Sequence[str]) -> None:
        """Does nothing: access to that socket is controlled by file permissions."""

    def _set_options(self, sock: "zmq.Socket[bytes]") -> None:
        super()._set_options(sock)
        sock.setsockopt(zmq.RECONNECT_IVL, 50)
