"""The faults that the network in memory can play."""

import pytest
from memory_network import Fate, MemoryNetwork

from flctl.transport.channel import LOCAL, LinkEvent, Sent


@pytest.fixture
def network():
    return MemoryNetwork(seed=3)


def texts(hub):
    return [message.frames[1] for message in hub.receive()]


def test_a_cable_that_is_out_stays_out_until_it_is_put_back(network):
    """`cut` and `mend` are seen on both sides, and the peer comes back as another."""
    hub, link = network.hub(), network.link("pi-01")
    first = link.peer
    link.cut()
    link.reopen()
    assert not link.send([b"pre", b"lost"])
    assert hub.send(first, [b"pre", b"?"]) is Sent.GONE
    assert hub.lost_connections()
    link.mend()
    assert link.peer not in (None, first)
    assert list(link.events()) == [
        LinkEvent.CONNECTED,
        LinkEvent.DISCONNECTED,
        LinkEvent.CONNECTED,
    ]


def test_a_fault_loses_doubles_or_delays_a_message(network):
    """In either direction, by the word of a function."""
    hub, link = network.hub(), network.link("pi-01")
    fates = {b"lost": Fate(copies=0), b"double": Fate(copies=2), b"late": Fate(delay=2)}
    network.fault = lambda key, frames: fates.get(bytes(frames[1]), Fate())
    for text in (b"lost", b"double", b"late", b"plain"):
        assert link.send([b"pre", text])
        assert hub.send(link.peer, [b"pre", text]) is Sent.OK
    assert texts(hub) == [b"double", b"double", b"plain"]
    assert [frames[1] for frames in link.receive()] == [b"double", b"double", b"plain"]
    network.step()
    assert texts(hub) == []
    network.step()
    assert texts(hub) == [b"late"]
    assert [frames[1] for frames in link.receive()] == [b"late"]


def test_what_is_under_way_is_lost_with_its_connection(network):
    """A delayed message does not reach the next connection."""
    hub, link = network.hub(), network.link("pi-01")
    network.fault = lambda key, frames: Fate(delay=1)
    link.send([b"pre", b"up"])
    hub.send(link.peer, [b"pre", b"down"])
    link.reconnect()
    network.step()
    assert texts(hub) == []
    assert list(link.receive()) == []


def test_random_faults_are_the_same_for_the_same_seed():
    """A failing test can be run again."""

    def play():
        network = MemoryNetwork(seed=11)
        hub, link = network.hub(), network.link("pi-01")
        network.random_faults(lost=0.2, doubled=0.2, delayed=0.3)
        for number in range(100):
            link.send([b"pre", str(number).encode()])
            network.step()
        return texts(hub)

    first = play()
    assert first == play()
    assert len(set(first)) < 100
    assert len(first) > len(set(first))
    assert first != sorted(first, key=int)


def test_the_control_link_needs_no_key(network):
    """LOCAL is let in whatever the hub thinks of keys."""
    hub = network.hub(authorise=lambda key: False)
    operator, stranger = network.link(LOCAL), network.link("stranger")
    assert operator.send([b"pre", b"status"])
    assert not stranger.send([b"pre", b"status"])
    assert [message.key for message in hub.receive()] == [LOCAL]


def test_waiting_takes_no_time(network):
    """`on_idle` is told for how long one would have waited, when there is nothing to do."""
    hub, link = network.hub(), network.link("pi-01")
    list(link.events())
    idle = []
    hub.on_idle = link.on_idle = idle.append
    hub.wait(3.0)
    link.wait(4.0)
    link.send([b"pre", b"x"])
    hub.wait(5.0)
    hub.wake()
    assert (idle, hub.woken) == ([3.0, 4.0], 1)


def test_there_is_one_hub_at_a_time(network):
    """A port is taken until it is given back."""
    hub = network.hub()
    with pytest.raises(ValueError, match="hub already"):
        network.hub()
    hub.close()
    network.hub()


def test_a_link_whose_queue_is_full_does_not_send(network):
    """A hub that does not read makes `send` say False; nothing is lost. (A real hub takes in all
    that honest peers send meanwhile, and closes the connection of a peer that sends more.)"""
    hub, link = network.hub(), network.link("pi-01")
    sent = 0
    while link.send([b"pre", str(sent).encode()]):
        sent += 1
        assert sent < 20_000
    assert texts(hub) == [str(number).encode() for number in range(sent)]
