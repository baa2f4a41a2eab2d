"""Two networks with one face: the ZeroMQ one over loopback and the one in memory."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from memory_network import MemoryNetwork

from flctl.transport.channel import Hub, Incoming, Link, LinkEvent
from flctl.transport.keypair import KeyPair
from flctl.transport.zeromq import ZeroMqHub, ZeroMqLink

PATIENCE_S = 60.0


class Network:
    """Makes a hub and links, and pumps them until something is so."""

    def __init__(self) -> None:
        self.allowed: set[str] = set()
        self.asked: list[str] = []
        self.received: list[Incoming] = []
        self.hub: Hub | None = None
        self.links: list[Link] = []
        self.events: dict[int, list[LinkEvent]] = {}
        self.got: dict[int, list[list[Any]]] = {}

    def authorise(self, key: str) -> bool:
        self.asked.append(key)
        return key in self.allowed

    def add(self, link: Link) -> Link:
        self.links.append(link)
        self.events[id(link)], self.got[id(link)] = [], []
        return link

    def pump(self, until: Callable[[], bool]) -> None:
        """Receive everywhere until `until`; fails after PATIENCE_S, on a busy machine, too."""
        give_up = time.monotonic() + PATIENCE_S
        while True:
            if self.hub is not None:
                self.hub.wait(0.005)
                self.received += self.hub.receive()
            for link in self.links:
                link.wait(0.005)
                self.events[id(link)] += link.events()
                self.got[id(link)] += link.receive()
            if until():
                return
            assert time.monotonic() < give_up, f"nothing came of it in {PATIENCE_S} s"

    def connect(self, name: str) -> Link:
        """An allowed link that is connected."""
        self.allowed.add(self.key(name))
        link = self.link(name)
        self.pump(lambda: LinkEvent.CONNECTED in self.events[id(link)])
        return link

    def peer_of(self, link: Link) -> bytes:
        """Send a greeting; the hub's name for the connection."""
        before = len(self.received)
        assert link.send([b"pre", b"hello"])
        self.pump(lambda: len(self.received) > before)
        return self.received[-1].peer

    def close(self) -> None:
        for link in self.links:
            link.close()
        if self.hub is not None:
            self.hub.close()

    def key(self, name: str) -> str:
        raise NotImplementedError

    def open_hub(self) -> Hub:
        raise NotImplementedError

    def link(self, name: str) -> Link:
        raise NotImplementedError


class Sockets(Network):
    def __init__(self) -> None:
        super().__init__()
        self.server = KeyPair.make()
        self.pairs: dict[str, KeyPair] = {}
        self.endpoint = "127.0.0.1:0"

    def key(self, name: str) -> str:
        return self.pairs.setdefault(name, KeyPair.make()).public

    def open_hub(self) -> ZeroMqHub:
        self.hub = hub = ZeroMqHub(self.endpoint, self.server, self.authorise)
        assert hub.endpoint is not None
        self.endpoint = hub.endpoint
        return hub

    def link(self, name: str) -> ZeroMqLink:
        self.key(name)
        link = ZeroMqLink(
            self.endpoint, self.pairs[name], self.server.public, uniform=lambda low, high: low
        )
        self.add(link)
        return link


class Memory(Network):
    def __init__(self) -> None:
        super().__init__()
        self.network = MemoryNetwork(seed=1)

    def key(self, name: str) -> str:
        return f"key of {name}"

    def open_hub(self) -> Hub:
        self.hub = self.network.hub(self.authorise)
        return self.hub

    def link(self, name: str) -> Link:
        return self.add(self.network.link(self.key(name)))


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    network = Sockets()
    yield network
    network.close()


@pytest.fixture(params=[Sockets, Memory], ids=["zeromq", "memory"])
def network(request: pytest.FixtureRequest) -> Iterator[Network]:
    network: Network = request.param()
    yield network
    network.close()
