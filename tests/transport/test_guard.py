"""What the guard does to real connections, and what it leaves alone."""

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from flood import Flooder

from flctl.transport import guard as guards
from flctl.transport.channel import LinkEvent
from flctl.transport.guard import counts_bytes, wire_bytes
from flctl.transport.hub import ZeroMqHub
from flctl.transport.keypair import KeyPair
from flctl.transport.keys import Keyring
from flctl.transport.ledger import Quota, agent_share, shares_of

LARGE = 256 * 1024


@contextlib.contextmanager
def flooding(sockets, name: str) -> Iterator[Flooder]:
    sockets.allowed.add(sockets.key(name))
    port = int(sockets.endpoint.rpartition(":")[2])
    flooder = Flooder(port, sockets.server.public, sockets.pairs[name])
    try:
        sockets.pump(lambda: flooder.is_let_in(0.01))
        yield flooder
    finally:
        flooder.close()


def open_hub(sockets, shares=agent_share) -> ZeroMqHub:
    hub = sockets.hub = ZeroMqHub("127.0.0.1:0", sockets.server, sockets.authorise, shares=shares)
    sockets.endpoint = hub.endpoint
    return hub


def guard_of(hub: ZeroMqHub) -> guards.Guard:
    (fleet,) = hub._fleets.values()
    return fleet.guard


def connections(hub: ZeroMqHub) -> list:
    return list(guard_of(hub)._ledger._open.values())


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_this_kernel_counts_what_a_connection_receives():
    """Linux has done so since 4.1; where it does not, the coordinator says so at its start."""
    assert counts_bytes()


@pytest.mark.parametrize("size", [0, 1, 221, 222, 223, 5000, LARGE])
def test_the_bytes_of_a_frame_are_counted_exactly(sockets, size: int):
    """Received and read are the same number, but for the handshake."""
    hub = open_hub(sockets)
    link = sockets.connect("pi-01")
    sockets.peer_of(link)
    time_out = time.monotonic() + 10
    (one,) = connections(hub)
    handshake, ours = 0, guard_of(hub)._ours[one.fd]

    def difference() -> int:
        return guards._received(ours) - one.settled

    sockets.pump(lambda: one.settled > 0)
    handshake = difference()
    assert 200 < handshake < 2000 and time.monotonic() < time_out
    for number in range(20):
        sockets.pump(lambda: link.send([b"pre", b"x", bytes(size)]))
        sockets.pump(lambda at=number: len(sockets.received) > at + 1)
    sockets.pump(lambda: difference() - handshake < 200)
    assert difference() - handshake >= 0
    assert wire_bytes(size) > size


@pytest.mark.parametrize("said", [True, False], ids=["after a word", "at once"])
@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("size", [1, LARGE])
def test_a_message_of_very_many_frames_ends_its_connection_only(
    sockets, size: int, finished: bool, said: bool
):
    """A whole one, or one whose last frame never comes; a neighbour notices nothing."""
    hub = open_hub(sockets)
    good = sockets.connect("good")
    with flooding(sockets, "bad") as bad:
        if said:
            bad.sock.send_multipart([b"pre", b"hello"])
            sockets.pump(lambda: len(sockets.received) == 1)
        frames = 600_000 if size == 1 else 400
        bad.prepare(frames, size)
        bad.fire(frames, size, finished)
        sockets.pump(bad.relay.closed.is_set)
        sockets.pump(hub.lost_connections)
    sockets.peer_of(good)
    assert sockets.events[id(good)] == [LinkEvent.CONNECTED]
    assert all(len(message.frames) == 2 for message in sockets.received)


def test_a_loop_that_stands_still_loses_no_honest_peer(sockets):
    """Nothing is read while a window of chunks and some words come; then all of it is there."""
    open_hub(sockets)
    good, bad = sockets.connect("good"), sockets.connect("bad")
    for link in (good, bad):
        sockets.peer_of(link)
    sent = [[b"pre", str(number).encode(), bytes(LARGE)] for number in range(16)]
    sent += [[b"pre", str(number).encode(), b"word"] for number in range(16, 100)]
    for frames in sent:
        assert good.send(frames)
    for _ in range(200):
        bad.send([b"pre", b"flood", bytes(LARGE)])
    until = time.monotonic() + 60
    while LinkEvent.DISCONNECTED not in sockets.events[id(bad)]:  # without the hub's loop
        assert time.monotonic() < until
        bad.wait(0.01)
        sockets.events[id(bad)] += bad.events()
    sockets.pump(lambda: sum(m.key == sockets.key("good") for m in sockets.received) == 101)
    texts = [m.frames[1] for m in sockets.received if m.key == sockets.key("good")][1:]
    assert texts == [frames[1] for frames in sent]
    assert sockets.events[id(good)] == [LinkEvent.CONNECTED]


def test_a_long_message_that_is_thrown_away_does_not_hold_the_loop(sockets):
    """Its frames are read in pieces; whoever has a few too many stays."""
    open_hub(sockets)
    with flooding(sockets, "some") as some, flooding(sockets, "many") as many:
        some.sock.send_multipart([b"x"] * 10)
        many.sock.send_multipart([b"x"] * 10_000)
        sockets.pump(many.relay.closed.is_set)
        some.sock.send_multipart([b"pre", b"still here"])
        sockets.pump(lambda: bool(sockets.received))
        assert [m.frames[1] for m in sockets.received] == [b"still here"]
        assert not some.relay.closed.is_set()


def test_the_connections_of_a_revoked_key_end(sockets, tmp_path: Path):
    """Nobody closes them but the guard; those of other keys stay, and it cannot come back."""
    keyring = Keyring(tmp_path / "keys")
    sockets.authorise = keyring.authorise
    open_hub(sockets, shares_of(keyring.role_of))
    for name, role in (("bad", "agent"), ("good", "agent"), ("eye", "read")):
        keyring.add(name, sockets.key(name), role)
    links = {name: sockets.connect(name) for name in ("bad", "good", "eye")}
    for link in links.values():
        sockets.peer_of(link)
    for name in ("bad", "eye"):
        Keyring(tmp_path / "keys").revoke(name)
    began = time.monotonic()
    assert keyring.refresh(now=1.0)
    for event in (LinkEvent.DISCONNECTED, LinkEvent.KEY_REFUSED):
        for link in (links["bad"], links["eye"]):
            sockets.pump(lambda it=link, said=event: said in sockets.events[id(it)])
        assert event is LinkEvent.KEY_REFUSED or time.monotonic() - began < 3
    assert sockets.events[id(links["good"])] == [LinkEvent.CONNECTED]


def test_too_many_connections_of_a_key_end(sockets):
    """The newest stay."""
    open_hub(sockets, lambda key: Quota(key, 2, 1 << 20, 1 << 20))
    links = []
    for _ in range(3):
        links.append(sockets.connect("pi-01"))
        sockets.peer_of(links[-1])
    sockets.pump(lambda: LinkEvent.DISCONNECTED in sockets.events[id(links[0])])
    links[0].close()
    sockets.links.remove(links[0])
    for link in links[1:]:
        sockets.peer_of(link)
        assert sockets.events[id(link)] == [LinkEvent.CONNECTED]


def test_closed_connections_leave_nothing(sockets):
    """Neither a descriptor nor an account, and the numbers that are used again do no harm."""
    hub = open_hub(sockets)
    stays = sockets.connect("stays")
    sockets.peer_of(stays)
    before = open_files()
    for number in range(30):
        link = sockets.connect(f"pi-{number}")
        sockets.peer_of(link)
        link.close()
        sockets.links.remove(link)
    sockets.pump(lambda: len(connections(hub)) == 1)
    sockets.pump(lambda: open_files() <= before)
    sockets.peer_of(stays)
    assert sockets.events[id(stays)] == [LinkEvent.CONNECTED]


SLOW_HUB = """
import sys, time
from flctl.transport import sockets
sockets.HEARTBEAT_MS, sockets.HEARTBEAT_TIMEOUT_MS = 100, 20_000
from flctl.transport.hub import ZeroMqHub
from flctl.transport.keypair import KeyPair
hub = ZeroMqHub("127.0.0.1:0", KeyPair(*sys.argv[1:]), lambda key: True)
print(hub.endpoint, flush=True)
for line in sys.stdin:
    for _ in range(20):
        hub.wait(0.0)
        for _ in hub.receive():
            pass
    print("read", flush=True)
"""


def test_a_peer_that_floods_and_hangs_up_does_not_end_the_process():
    """libzmq 4.3.5 aborts when a heartbeat falls due on a broken connection whose queue is full:
    so no queue is ever full."""
    keys = KeyPair.make()
    command = [sys.executable, "-c", SLOW_HUB, keys.public, keys.secret]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as hub,
        zmq.Context() as context,
    ):
        assert hub.stdout is not None and hub.stdin is not None
        endpoint = hub.stdout.readline().strip()
        for _ in range(3):
            pair = KeyPair.make()
            sock = context.socket(zmq.DEALER)
            sock.linger, sock.immediate, sock.sndhwm = 0, 1, 0
            sock.curve_serverkey = keys.public.encode()
            sock.curve_publickey = pair.public.encode()
            sock.curve_secretkey = pair.secret.encode()
            sock.connect(f"tcp://{endpoint}")
            assert sock.poll(60_000, zmq.POLLOUT)
            for _ in range(1_000):
                sock.send_multipart([b"flc\x02", b"a word"])
            time.sleep(0.3)  # two of its heartbeats
            sock.close()
            time.sleep(0.3)
            assert hub.poll() is None, f"it has ended with {hub.returncode}"
            hub.stdin.write("go on\n")
            hub.stdin.flush()
            assert hub.stdout.readline() == "read\n"
        hub.stdin.close()
        assert hub.wait(20) == 0
