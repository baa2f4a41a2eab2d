"""One port, two keys of the server: both let an agent in."""

import pytest

from flctl.errors import StateError
from flctl.transport import link as links
from flctl.transport.channel import LinkEvent
from flctl.transport.hub import ZeroMqHub
from flctl.transport.keypair import KeyPair
from flctl.transport.link import ZeroMqLink


def dial(network, *keys: str) -> ZeroMqLink:
    pair = KeyPair.make()
    network.allowed.add(pair.public)
    link = ZeroMqLink(network.endpoint, pair, keys, uniform=lambda low, _: low / 2)
    network.add(link)
    return link


def events(network, link: ZeroMqLink) -> list[LinkEvent]:
    return network.events[id(link)]


def talks(network, link: ZeroMqLink) -> bytes:
    """The hub's name for it, once it is connected and was answered."""
    network.pump(lambda: LinkEvent.CONNECTED in events(network, link))
    peer = network.peer_of(link)
    network.hub.send(peer, [b"pre", b"answer"])
    network.pump(lambda: bool(network.got[id(link)]))
    return peer


def test_both_keys_let_agents_in_and_live_connections_stay(sockets):
    hub, new = sockets.open_hub(), KeyPair.make()
    before = dial(sockets, sockets.server.public)
    first = talks(sockets, before)
    hub.listen_also(new)
    hub.listen_also(new)
    marks = {talks(sockets, dial(sockets, key))[:1] for key in (new.public, sockets.server.public)}
    assert marks == {b"f", b"g"}
    hub.send(first, [b"pre", b"more"])
    sockets.pump(lambda: len(sockets.got[id(before)]) == 2)
    assert LinkEvent.DISCONNECTED not in events(sockets, before)


def test_afterwards_only_the_new_one_lets_anybody_in(sockets, monkeypatch):
    """Those who know both go on with the new one; those who know the old one say so."""
    hub, new = sockets.open_hub(), KeyPair.make()
    old = dial(sockets, sockets.server.public)
    both = dial(sockets, sockets.server.public, new.public)
    for link in (old, both):
        talks(sockets, link)
    hub.listen_also(new)
    kept = dial(sockets, new.public)
    talks(sockets, kept)
    hub.listen_only(new)
    assert hub.lost_connections()
    with monkeypatch.context() as hasty:  # while both keys listen, a dial may meet the other one
        hasty.setattr(links, "HUNG_UP_S", 0.3)
        sockets.pump(lambda: LinkEvent.SERVER_KEY_WRONG in events(sockets, old))
    sockets.pump(lambda: events(sockets, both).count(LinkEvent.CONNECTED) == 2)
    assert LinkEvent.SERVER_KEY_WRONG not in events(sockets, both)
    assert LinkEvent.DISCONNECTED not in events(sockets, kept)
    hub.listen_also(sockets.server)
    talks(sockets, dial(sockets, sockets.server.public))


def test_the_one_key_that_is_good_is_listened_to_in_any_case(sockets):
    """Also where only others were: the coordinator does not end over it."""
    hub, new = sockets.open_hub(), KeyPair.make()
    hub.listen_also(KeyPair.make())
    hub.listen_only(new)
    talks(sockets, dial(sockets, new.public))


def test_a_link_that_is_given_other_keys_leaves_a_connection_by_another(sockets):
    hub, new = sockets.open_hub(), KeyPair.make()
    hub.listen_also(new)
    link = dial(sockets, sockets.server.public)
    assert talks(sockets, link)[:1] == b"f"
    link.use_server_keys((new.public, sockets.server.public))
    sockets.pump(lambda: True)
    assert LinkEvent.DISCONNECTED not in events(sockets, link)
    link.use_server_keys((new.public,))
    sockets.pump(lambda: events(sockets, link).count(LinkEvent.CONNECTED) == 2)
    assert sockets.peer_of(link)[:1] == b"g"


def test_a_port_of_two_keys_is_taken_for_another_coordinator(sockets):
    hub = sockets.open_hub()
    hub.listen_also(KeyPair.make())
    with pytest.raises(StateError, match="is in use: another coordinator"):
        ZeroMqHub(sockets.endpoint, KeyPair.make(), lambda _: True)
