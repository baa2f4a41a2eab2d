"""What every channel keeps to, over real sockets and in memory."""

from flctl.transport.channel import LinkEvent, Sent
from flctl.transport.sockets import FRAME_BYTES
from flctl.wire.messages import CHUNK_BYTES


def test_messages_arrive_with_the_key_of_their_sender(network):
    """The hub knows a peer by the key that it was let in with."""
    network.open_hub()
    links = {name: network.connect(name) for name in ("pi-01", "pi-02")}
    for name, link in links.items():
        assert link.send([b"pre", name.encode()])
    network.pump(lambda: len(network.received) == 2)
    assert {(m.key, m.frames[1]) for m in network.received} == {
        (network.key(name), name.encode()) for name in links
    }


def test_an_answer_goes_to_the_peer_that_asked(network):
    """Only the addressed link receives, prefix and message as bytes, payload as a view."""
    hub = network.open_hub()
    first, second = network.connect("pi-01"), network.connect("pi-02")
    peer = network.peer_of(first)
    payload = bytes(range(256)) * (CHUNK_BYTES // 256)
    assert hub.send(peer, [b"pre", b"answer", memoryview(payload)]) is Sent.OK
    network.pump(lambda: network.got[id(first)] != [])
    (frames,) = network.got[id(first)]
    assert frames[:2] == [b"pre", b"answer"]
    assert all(isinstance(frame, bytes) for frame in frames[:2])
    assert isinstance(frames[2], memoryview)
    assert frames[2] == payload
    assert network.got[id(second)] == []


def test_messages_keep_their_order(network):
    """What one link sends arrives in the order of sending."""
    network.open_hub()
    link = network.connect("pi-01")
    for number in range(300):
        assert link.send([b"pre", str(number).encode()])
    network.pump(lambda: len(network.received) == 300)
    assert [int(m.frames[1]) for m in network.received] == list(range(300))


def test_a_key_that_is_not_allowed_is_refused(network):
    """A refused link is told so, sends nothing, and is asked about by its key."""
    network.open_hub()
    stranger = network.link("stranger")
    network.pump(lambda: LinkEvent.KEY_REFUSED in network.events[id(stranger)])
    assert LinkEvent.CONNECTED not in network.events[id(stranger)]
    assert not stranger.send([b"pre", b"let me in"])
    assert network.asked == [network.key("stranger")]


def test_reopening_after_the_key_was_allowed_connects(network):
    """A refused link tries again when it is told to."""
    network.open_hub()
    link = network.link("pi-01")
    network.pump(lambda: LinkEvent.KEY_REFUSED in network.events[id(link)])
    network.allowed.add(network.key("pi-01"))
    link.reopen()
    network.pump(lambda: LinkEvent.CONNECTED in network.events[id(link)])
    assert network.peer_of(link)


def test_a_new_connection_has_a_new_peer_id(network):
    """After a reconnection the old id is GONE and the new one answers."""
    hub = network.open_hub()
    link = network.connect("pi-01")
    old = network.peer_of(link)
    link.reopen()
    network.pump(lambda: network.events[id(link)].count(LinkEvent.CONNECTED) == 2)
    new = network.peer_of(link)
    assert new != old
    network.pump(lambda: hub.send(old, [b"pre", b"?"]) is Sent.GONE)
    assert hub.send(new, [b"pre", b"!"]) is Sent.OK


def test_a_closed_connection_is_noticed_once(network):
    """`lost_connections` tells that some connection was closed, and then no more."""
    hub = network.open_hub()
    link = network.connect("pi-01")
    peer = network.peer_of(link)
    assert not hub.lost_connections()
    link.close()
    network.links.remove(link)
    network.pump(hub.lost_connections)
    assert not hub.lost_connections()
    network.pump(lambda: hub.send(peer, [b"pre", b"?"]) is Sent.GONE)


def test_an_unknown_peer_is_gone(network):
    """No message goes to a peer that never was."""
    hub = network.open_hub()
    for peer in (b"", b"f", b"c12345", b"f\x00\x01\x02\x03\x04", b"nonsense"):
        assert hub.send(peer, [b"pre", b"?"]) is Sent.GONE


def test_a_link_without_a_hub_sends_nothing(network):
    """While the coordinator is away `send` says False and keeps nothing for later."""
    network.open_hub()
    link = network.connect("pi-01")
    network.hub.close()
    network.hub = None
    network.pump(lambda: network.events[id(link)][-1] is LinkEvent.DISCONNECTED)
    assert not link.send([b"pre", b"stale"])
    network.open_hub()
    network.pump(lambda: network.events[id(link)][-1] is LinkEvent.CONNECTED)
    network.peer_of(link)
    assert [m.frames[1] for m in network.received] == [b"hello"]


def test_a_message_of_too_many_frames_is_dropped(network):
    """More than prefix, message and payload is no message; the connection stays."""
    hub = network.open_hub()
    link = network.connect("pi-01")
    assert link.send([b"pre", b"2", b"3", b"4"])
    peer = network.peer_of(link)
    assert [m.frames[1] for m in network.received] == [b"hello"]
    assert hub.send(peer, [b"pre", b"2", b"3", b"4"]) is Sent.OK
    assert hub.send(peer, [b"pre", b"good"]) is Sent.OK
    network.pump(lambda: network.got[id(link)] != [])
    assert network.got[id(link)] == [[b"pre", b"good"]]


def test_an_oversized_frame_breaks_only_its_own_connection(network):
    """Nothing of it arrives; the sender is cut off and comes back; others notice nothing."""
    network.open_hub()
    bad, good = network.connect("bad"), network.connect("good")
    assert bad.send([b"pre", b"big", bytes(FRAME_BYTES + 1)])
    network.pump(lambda: network.events[id(bad)].count(LinkEvent.CONNECTED) == 2)
    network.peer_of(good)
    assert [m.frames[1] for m in network.received] == [b"hello"]
    assert network.events[id(good)] == [LinkEvent.CONNECTED]


def test_a_full_queue_is_slow_and_recovers(network):
    """A peer that does not read makes `send` say SLOW; everything before that arrives."""
    hub = network.open_hub()
    link = network.connect("pi-01")
    peer = network.peer_of(link)
    sent = 0
    payload = bytes(CHUNK_BYTES // 8)
    while (outcome := hub.send(peer, [b"pre", str(sent).encode(), payload])) is Sent.OK:
        sent += 1
        assert sent < 20_000
    assert outcome is Sent.SLOW
    network.pump(lambda: len(network.got[id(link)]) == sent)
    assert [int(frames[1]) for frames in network.got[id(link)]] == list(range(sent))
    assert hub.send(peer, [b"pre", b"again"]) is Sent.OK


def test_closing_twice_does_nothing(network):
    """`close` may come from more than one place."""
    hub = network.open_hub()
    link = network.connect("pi-01")
    link.close()
    link.close()
    network.links.remove(link)
    hub.close()
    hub.close()
    network.hub = None
