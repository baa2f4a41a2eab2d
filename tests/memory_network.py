"""The channel in one process, for tests: no sockets, no threads, no time.

It keeps to what the ZeroMQ one does: another peer id after each reconnection, GONE after a
disconnection, bounded queues, refused keys, limits on frames. Faults are put in by hand.
"""

import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from flctl.transport.channel import LOCAL, Frame, Incoming, LinkEvent, Sent
from flctl.transport.sockets import FRAME_BYTES, MESSAGE_FRAMES, QUEUE_MESSAGES

Idle = Callable[[float], None]


class Fate(NamedTuple):
    """What becomes of one message: how many copies arrive (0: lost), after how many steps."""

    copies: int = 1
    delay: int = 0


Fault = Callable[[str, Sequence[Frame]], Fate]
"""From the key of the link and the frames, in either direction."""


class MemoryNetwork:
    """One hub and any number of links. `fault` decides what becomes of each message."""

    def __init__(self, seed: int = 0, queue: int = QUEUE_MESSAGES) -> None:
        self.queue = queue
        self.fault: Fault | None = None
        self.current: MemoryHub | None = None
        self._random = random.Random(seed)
        self._links: list[MemoryLink] = []
        self._late: list[tuple[int, Callable[[], None]]] = []
        self._step = 0

    def hub(self, authorise: Callable[[str], bool] = lambda _: True) -> "MemoryHub":
        """The coordinator's side; after its `close` another one can take its place."""
        if self.current is not None:
            raise ValueError("there is a hub already")
        self.current = MemoryHub(self, authorise)
        for link in self._links:
            link.dial()
        return self.current

    def link(self, key: str) -> "MemoryLink":
        """A connection with this key; with LOCAL, one to the control socket."""
        link = MemoryLink(self, key)
        self._links.append(link)
        link.dial()
        return link

    def random_faults(self, lost: float, doubled: float, delayed: float, most: int = 3) -> None:
        """Each message is lost, doubled or delayed (by 1 to `most` steps) so probably."""

        def fault(_key: str, _frames: Sequence[Frame]) -> Fate:
            if self._random.random() < lost:
                return Fate(copies=0)
            copies = 2 if self._random.random() < doubled else 1
            late = self._random.random() < delayed
            return Fate(copies, self._random.randint(1, most) if late else 0)

        self.fault = fault

    def step(self) -> None:
        """Let delayed messages come one step nearer."""
        self._step += 1
        due = [deliver for at, deliver in self._late if at <= self._step]
        self._late = [late for late in self._late if late[0] > self._step]
        for deliver in due:
            deliver()

    def carry(self, key: str, frames: Sequence[Frame], deliver: Callable[[], None]) -> None:
        fate = self.fault(key, frames) if self.fault is not None else Fate()
        for _ in range(fate.copies):
            if fate.delay:
                self._late.append((self._step + fate.delay, deliver))
            else:
                deliver()

    def new_peer(self) -> bytes:
        return b"m" + self._random.randbytes(5)

    def remove(self, link: "MemoryLink") -> None:
        self._links.remove(link)

    def hub_closed(self) -> None:
        self.current = None
        for link in self._links:
            link.hang_up()


class MemoryHub:
    """Implements `channel.Hub`; `wait` returns at once, after `on_idle` if nothing is there."""

    def __init__(self, network: MemoryNetwork, authorise: Callable[[str], bool]) -> None:
        self.authorise = authorise
        self.on_idle: Idle | None = None
        self.woken = 0
        self.peers: dict[bytes, MemoryLink] = {}
        self.inbox: deque[Incoming] = deque()
        self.lost = False
        self._network = network

    def receive(self) -> Iterator[Incoming]:
        for _ in range(len(self.inbox)):
            yield self.inbox.popleft()

    def send(self, peer: bytes, frames: Sequence[Frame]) -> Sent:
        link = self.peers.get(peer)
        if link is None:
            return Sent.GONE
        if len(link.inbox) >= self._network.queue:
            return Sent.SLOW
        if _is_oversized(frames):
            link.reconnect()
        elif _is_acceptable(frames):
            copy = _copy(frames)
            self._network.carry(link.key, copy, lambda: link.deliver(peer, copy))
        return Sent.OK

    def lost_connections(self) -> bool:
        lost, self.lost = self.lost, False
        return lost

    def wait(self, timeout_s: float, readable: Sequence[int] = ()) -> None:
        if self.on_idle is not None and not (self.inbox or self.lost):
            self.on_idle(timeout_s)

    def wake(self) -> None:
        self.woken += 1

    def close(self) -> None:
        if self._network.current is self:
            self._network.hub_closed()


class MemoryLink:
    """Implements `channel.Link`; `cut` and `mend` pull the cable out and put it back."""

    def __init__(self, network: MemoryNetwork, key: str) -> None:
        self.key = key
        self.on_idle: Idle | None = None
        self.peer: bytes | None = None
        """Its id at the hub while it is connected."""
        self.inbox: deque[list[Frame]] = deque()
        self._network = network
        self._events: deque[LinkEvent] = deque()
        self._cable = self._dialling = True
        self._closed = False

    def send(self, frames: Sequence[Frame]) -> bool:
        hub, peer = self._network.current, self.peer
        if hub is None or peer is None:
            return False
        if sum(incoming.peer == peer for incoming in hub.inbox) >= self._network.queue:
            return False
        if _is_oversized(frames):
            self.reconnect()
        elif _is_acceptable(frames):
            incoming = Incoming(peer, self.key, _copy(frames))
            # As on a real connection, what is under way when it breaks is lost.
            self._network.carry(
                self.key, frames, lambda: hub.inbox.append(incoming) if peer in hub.peers else None
            )
        return True

    def receive(self) -> Iterator[list[Frame]]:
        for _ in range(len(self.inbox)):
            yield self.inbox.popleft()

    def events(self) -> Iterator[LinkEvent]:
        while self._events:
            yield self._events.popleft()

    def wait(self, timeout_s: float, readable: Sequence[int] = ()) -> None:
        if self.on_idle is not None and not (self.inbox or self._events):
            self.on_idle(timeout_s)

    def use_server_keys(self, keys: Sequence[str]) -> None:
        self.server_keys = tuple(keys)

    def trouble(self) -> str | None:
        return "the cable is cut" if not self._cable else "there is no hub"

    def reopen(self) -> None:
        self.hang_up()
        self._dialling = True
        self.dial()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self.hang_up()
            self._network.remove(self)

    def cut(self) -> None:
        """The connection breaks, and is not made again until `mend`."""
        self._cable = False
        self.hang_up()

    def mend(self) -> None:
        self._cable = True
        self.dial()

    def reconnect(self) -> None:
        """The connection breaks and is made again."""
        self.hang_up()
        self.dial()

    def dial(self) -> None:
        hub = self._network.current
        if hub is None or self.peer is not None or not (self._cable and self._dialling):
            return
        if self.key != LOCAL and not hub.authorise(self.key):
            self._dialling = False
            self._events.append(LinkEvent.KEY_REFUSED)
            return
        self.peer = self._network.new_peer()
        hub.peers[self.peer] = self
        self._events.append(LinkEvent.CONNECTED)

    def hang_up(self) -> None:
        if self.peer is None:
            return
        hub = self._network.current
        if hub is not None:
            hub.peers.pop(self.peer)
            hub.lost = True
        self.peer = None
        self.inbox.clear()
        self._events.append(LinkEvent.DISCONNECTED)

    def deliver(self, peer: bytes, frames: list[Frame]) -> None:
        if self.peer == peer:
            self.inbox.append(frames)


def _is_oversized(frames: Sequence[Frame]) -> bool:
    return any(len(frame) > FRAME_BYTES for frame in frames)


def _is_acceptable(frames: Sequence[Frame]) -> bool:
    return 0 < len(frames) <= MESSAGE_FRAMES


def _copy(frames: Sequence[Frame]) -> list[Frame]:
    """Prefix and message as bytes, the payload as a memoryview, as over sockets."""
    return [bytes(f) if i < 2 else memoryview(bytes(f)) for i, f in enumerate(frames)]
