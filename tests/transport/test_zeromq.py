"""What only real sockets can show: who gets in, who does not, and what is said about it."""

import logging
import os
import random
import shutil
import socket
import tempfile
import threading
import time
from pathlib import Path

import pytest
import zmq

from flctl.errors import StateError, UsageError
from flctl.transport import addresses, link
from flctl.transport.channel import LOCAL, LinkEvent, Sent
from flctl.transport.keypair import KeyPair
from flctl.transport.keys import Keyring
from flctl.transport.zeromq import (
    ControlLink,
    ZeroMqHub,
    ZeroMqLink,
    control_address,
    control_is_there,
)


def host_and_port(sockets):
    host, _, port = sockets.endpoint.rpartition(":")
    return host, int(port)


def raw_dealer(context, sockets, **options):
    dealer = context.socket(zmq.DEALER)
    dealer.linger = 0
    dealer.immediate = 1
    for name, value in options.items():
        setattr(dealer, name, value)
    dealer.connect(f"tcp://{sockets.endpoint}")
    return dealer


def test_the_server_key_alone_lets_nobody_in(sockets):
    """A stranger that knows the coordinator's public key and sends at once is not heard."""
    sockets.open_hub()
    pair = KeyPair.make()
    with zmq.Context() as context:
        stranger = raw_dealer(
            context,
            sockets,
            immediate=0,
            curve_serverkey=sockets.server.public.encode(),
            curve_publickey=pair.public.encode(),
            curve_secretkey=pair.secret.encode(),
        )
        stranger.send_multipart([b"pre", b"let me in"])
        sockets.pump(lambda: pair.public in sockets.asked)
        sockets.connect("pi-01").send([b"pre", b"hello"])
        sockets.pump(lambda: sockets.received != [])
        assert {message.key for message in sockets.received} == {sockets.key("pi-01")}
        stranger.close()


def test_without_its_gatekeeper_the_hub_lets_nobody_in(sockets):
    """Fail closed: when the key check is not running, allowed keys are refused as well."""
    hub = sockets.open_hub()
    hub._gatekeeper.close()
    hub._gatekeeper = None
    sockets.allowed.add(sockets.key("pi-01"))
    agent = sockets.link("pi-01")
    stop = time.monotonic() + 0.5
    sockets.pump(lambda: time.monotonic() > stop)
    assert LinkEvent.CONNECTED not in sockets.events[id(agent)]
    assert not agent.send([b"pre", b"hello"])


def test_an_error_in_the_key_check_refuses_and_the_next_is_judged(sockets, caplog):
    """The gatekeeper outlives an exception and logs it."""
    broken = [True]
    judge = sockets.authorise

    def authorise(key):
        if broken:
            broken.clear()
            raise RuntimeError("disk on fire")
        return judge(key)

    sockets.authorise = authorise
    sockets.open_hub()
    sockets.allowed.add(sockets.key("pi-01"))
    first = sockets.link("pi-01")
    sockets.pump(lambda: LinkEvent.KEY_REFUSED in sockets.events[id(first)])
    assert "disk on fire" in caplog.text
    first.reopen()
    sockets.pump(lambda: LinkEvent.CONNECTED in sockets.events[id(first)])


def test_a_plain_client_is_refused(sockets):
    """A client without CURVE never gets a message through."""
    sockets.open_hub()
    with zmq.Context() as context:
        plain = raw_dealer(context, sockets, immediate=0)
        plain.send_multipart([b"pre", b"plain"])
        sockets.peer_of(sockets.connect("pi-01"))
        stop = time.monotonic() + 0.3
        sockets.pump(lambda: time.monotonic() > stop)
        assert [message.frames[1] for message in sockets.received] == [b"hello"]
        plain.close()


def test_a_wrong_server_key_is_told(sockets, monkeypatch):
    """The link says SERVER_KEY_WRONG; the key check is not even asked."""
    monkeypatch.setattr(link, "HUNG_UP_S", 0.3)
    sockets.open_hub()
    sockets.allowed.add(sockets.key("pi-01"))
    wrong = ZeroMqLink(
        sockets.endpoint, sockets.pairs["pi-01"], KeyPair.make().public, lambda low, high: low
    )
    sockets.add(wrong)
    sockets.pump(lambda: sockets.events[id(wrong)] != [])
    assert sockets.events[id(wrong)] == [LinkEvent.SERVER_KEY_WRONG]
    assert sockets.asked == []


class HangsUp:
    """Accepts connections and closes them, as what stands before a service that is not up."""

    def __init__(self, sockets):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setblocking(False)
        sockets.endpoint = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.dialled = 0

    def __call__(self):
        try:
            self.listener.accept()[0].close()
        except BlockingIOError:
            return
        self.dialled += 1


def test_whoever_hangs_up_is_left_alone_after_a_while(sockets, monkeypatch):
    """libzmq would dial again several times a second; the link pauses."""
    monkeypatch.setattr(link, "HUNG_UP_S", 0.5)
    hangs_up = HangsUp(sockets)
    lost = sockets.link("pi-01")
    sockets.pump(lambda: hangs_up() or sockets.events[id(lost)] != [])
    before = hangs_up.dialled
    stop = time.monotonic() + 0.8
    sockets.pump(lambda: hangs_up() or time.monotonic() > stop)
    hangs_up.listener.close()
    assert sockets.events[id(lost)] == [LinkEvent.SERVER_KEY_WRONG]
    assert hangs_up.dialled == before >= 2


def test_a_coordinator_that_only_starts_has_no_wrong_key(sockets):
    """Before it listens, Docker's proxy accepts connections in its place, and closes them."""
    hangs_up = HangsUp(sockets)
    early = sockets.link("pi-01")
    sockets.pump(lambda: hangs_up() or hangs_up.dialled >= 3)
    hangs_up.listener.close()
    sockets.allowed.add(sockets.key("pi-01"))
    sockets.open_hub()
    sockets.pump(lambda: sockets.events[id(early)] != [])
    assert sockets.events[id(early)] == [LinkEvent.CONNECTED]


def test_a_peer_that_hangs_up_is_dialled_often_before_its_key_counts_as_wrong(sockets, monkeypatch):
    """While a server key is replaced, each dial meets the socket with the other key by chance."""
    monkeypatch.setattr(link, "HUNG_UP_S", 8.0)
    hangs_up = HangsUp(sockets)
    seldom = ZeroMqLink(
        sockets.endpoint, KeyPair.make(), KeyPair.make().public, uniform=lambda _, high: high
    )
    while hangs_up.dialled < 8:
        hangs_up()
        seldom.wait(0.01)
        assert list(seldom.events()) == []
    hangs_up.listener.close()
    seldom.close()


def test_a_wrong_server_key_is_tried_again_after_a_while(sockets, monkeypatch):
    """By itself, without `reopen`; the pause is ten seconds outside of tests."""
    monkeypatch.setattr(link, "WRONG_KEY_RETRY_S", 0.1)
    monkeypatch.setattr(link, "HUNG_UP_S", 0.3)
    sockets.open_hub()
    wrong = ZeroMqLink(
        sockets.endpoint, KeyPair.make(), KeyPair.make().public, lambda low, high: low
    )
    sockets.add(wrong)
    sockets.pump(lambda: len(sockets.events[id(wrong)]) == 2)
    assert set(sockets.events[id(wrong)]) == {LinkEvent.SERVER_KEY_WRONG}


def test_a_listener_that_is_no_coordinator_has_the_wrong_key(sockets):
    """A ZeroMQ socket without CURVE is told apart from one that is away."""
    with zmq.Context() as context:
        plain = context.socket(zmq.ROUTER)
        plain.linger = 0
        sockets.endpoint = f"127.0.0.1:{plain.bind_to_random_port('tcp://127.0.0.1')}"
        lost = sockets.link("pi-01")
        sockets.pump(lambda: sockets.events[id(lost)] == [LinkEvent.SERVER_KEY_WRONG])
        plain.close()


def test_a_revoked_key_goes_on_and_is_recognised(sockets, tmp_path):
    """ZeroMQ keeps the connection: each message still names the key, which has no role now."""
    keyring = Keyring(tmp_path / "keys")
    sockets.authorise = keyring.authorise
    sockets.open_hub()
    keyring.add("pi-01", sockets.key("pi-01"), "agent")
    agent = sockets.connect("pi-01")
    sockets.peer_of(agent)
    assert keyring.role_of(sockets.received[-1].key) == "agent"
    Keyring(tmp_path / "keys").revoke("pi-01")
    assert keyring.refresh(now=1.0)
    sockets.peer_of(agent)
    assert keyring.role_of(sockets.received[-1].key) is None
    agent.reopen()
    sockets.pump(lambda: LinkEvent.KEY_REFUSED in sockets.events[id(agent)])


def test_an_unknown_key_waits_outside_and_gets_in_while_a_token_is_open(sockets, tmp_path):
    """Refused and noted without a token, a guest with one, an agent once it has joined."""
    keyring = Keyring(tmp_path / "keys")
    sockets.authorise = keyring.authorise
    sockets.open_hub()
    key = sockets.key("new")
    guest = sockets.link("new")
    sockets.pump(lambda: LinkEvent.KEY_REFUSED in sockets.events[id(guest)])
    assert [waiting.key for waiting in keyring.waiting()] == [key]
    token = keyring.new_token(ttl_s=60, uses=1)
    guest.reopen()
    sockets.pump(lambda: LinkEvent.CONNECTED in sockets.events[id(guest)])
    sockets.peer_of(guest)
    assert keyring.role_of(sockets.received[-1].key) == "guest"
    assert keyring.redeem(token, key, None).name == "pi-01"
    assert keyring.role_of(sockets.received[-1].key) == "agent"
    assert keyring.waiting() == []


def test_random_bytes_do_not_disturb_others(sockets):
    """Noise on the port neither reaches the hub nor breaks another's connection."""
    sockets.open_hub()
    good = sockets.connect("good")
    rng = random.Random(7)
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00CURVE" + bytes(15) + bytes(32)
    openings = [b"", greeting, greeting[:20], b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 10]
    for number in range(25):
        with socket.create_connection(host_and_port(sockets)) as noise:
            # The hub may hang up in the middle of it.
            try:
                noise.sendall(openings[number % len(openings)] + rng.randbytes(2000))
            except OSError:
                continue
    for _ in range(3):
        sockets.peer_of(good)
    assert [message.frames[1] for message in sockets.received] == [b"hello"] * 3
    assert sockets.events[id(good)] == [LinkEvent.CONNECTED]


def test_strange_messages_of_an_allowed_key_arrive_as_they_are(sockets):
    """Empty frames and any bytes are handed on; judging them is the decoder's."""
    sockets.open_hub()
    agent = sockets.connect("pi-01")
    assert agent.send([b""])
    assert agent.send([b"\x00\xff", b"", b""])
    sockets.pump(lambda: len(sockets.received) == 2)
    assert [[bytes(f) for f in m.frames] for m in sockets.received] == [
        [b""],
        [b"\x00\xff", b"", b""],
    ]


def test_two_connections_of_one_key_are_two_peers(sockets):
    """Two cloned SD cards do not take each other's messages away."""
    hub = sockets.open_hub()
    first, second = sockets.connect("pi-01"), sockets.connect("pi-01")
    peers = [sockets.peer_of(first), sockets.peer_of(second)]
    assert peers[0] != peers[1]
    for number, peer in enumerate(peers):
        assert hub.send(peer, [b"pre", str(number).encode()]) is Sent.OK
    sockets.pump(lambda: all(sockets.got[id(one)] for one in (first, second)))
    assert sockets.got[id(first)] == [[b"pre", b"0"]]
    assert sockets.got[id(second)] == [[b"pre", b"1"]]


def test_wake_ends_a_wait(sockets):
    """Another thread can interrupt the hub's `wait`, also just before it begins."""
    hub = sockets.open_hub()
    hub.wake()
    began = time.monotonic()
    hub.wait(30)
    thread = threading.Timer(0.05, hub.wake)
    thread.start()
    hub.wait(30)
    thread.join()
    assert time.monotonic() - began < 10
    hub.wait(0.01)
    for _ in range(100_000):
        hub.wake()  # a full pipe is no error


def test_a_link_waits_for_other_descriptors_too(sockets):
    """The worker's pipe ends a `wait` as a message does."""
    sockets.open_hub()
    agent = sockets.connect("pi-01")
    reader, writer = os.pipe()
    os.write(writer, b"x")
    began = time.monotonic()
    agent.wait(30, [reader])
    assert time.monotonic() - began < 10
    os.close(reader)
    os.close(writer)


def test_a_port_in_use_is_one_clear_line(sockets):
    """Binding twice names the port and what to do."""
    sockets.open_hub()
    with pytest.raises(StateError, match=r"port \d+ on 127.0.0.1 is in use.*--bind") as error:
        ZeroMqHub(sockets.endpoint, KeyPair.make(), lambda key: True)
    assert "\n" not in str(error.value)


def test_an_address_that_is_not_ours_is_one_clear_line():
    """An address of another machine cannot be bound."""
    with pytest.raises(StateError, match=r"port 7700 on 192\.0\.2\.1 cannot be opened"):
        ZeroMqHub("192.0.2.1:7700", KeyPair.make(), lambda key: True)


def test_the_control_socket_serves_this_machine_without_a_key(sockets, tmp_path):
    """Its peers are LOCAL, and cannot be mistaken for peers of the fleet socket."""
    sockets.allowed.add(sockets.key("pi-01"))
    hub = sockets.hub = ZeroMqHub(
        "127.0.0.1:0", sockets.server, sockets.authorise, control=tmp_path
    )
    sockets.endpoint = hub.endpoint
    assert control_is_there(tmp_path)
    operator = sockets.add(ControlLink(control_address(tmp_path)))
    agent = sockets.connect("pi-01")
    sockets.pump(lambda: LinkEvent.CONNECTED in sockets.events[id(operator)])
    there = sockets.peer_of(operator)
    assert sockets.received[-1].key == LOCAL
    assert sockets.received[-1].origin.endswith(f":{os.getuid()}:{os.getgid()}:{os.getpid()}")
    here = sockets.peer_of(agent)
    assert sockets.received[-1].key == sockets.key("pi-01")
    assert sockets.received[-1].origin == "127.0.0.1"
    assert hub.send(b"f" + there[1:], [b"pre", b"?"]) is Sent.GONE
    assert hub.send(there, [b"pre", b"for the operator"]) is Sent.OK
    assert hub.send(here, [b"pre", b"for the agent"]) is Sent.OK
    sockets.pump(lambda: bool(sockets.got[id(operator)] and sockets.got[id(agent)]))
    assert sockets.got[id(operator)] == [[b"pre", b"for the operator"]]
    assert oct((tmp_path / "control.sock").stat().st_mode & 0o777) == "0o600"


def test_a_hub_can_have_the_control_socket_alone(sockets, tmp_path):
    """A run without a fleet listens on no port."""
    hub = sockets.hub = ZeroMqHub(None, None, sockets.authorise, control=tmp_path)
    assert hub.endpoint is None
    operator = sockets.add(ControlLink(control_address(tmp_path)))
    sockets.pump(lambda: sockets.events[id(operator)] == [LinkEvent.CONNECTED])


def test_nobody_is_there_when_the_coordinator_is_not(tmp_path):
    """Neither without a socket nor with one that a killed coordinator left behind."""
    assert not control_is_there(tmp_path)
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(tmp_path / "control.sock"))
    assert not control_is_there(tmp_path)


def test_a_deep_state_folder_has_a_control_socket_too(sockets, tmp_path, monkeypatch, request):
    """A path that is too long for a socket is replaced by a short one of this user's."""
    short = Path(tempfile.mkdtemp(prefix="flctl-test-"))
    request.addfinalizer(lambda: shutil.rmtree(short))
    monkeypatch.setattr(addresses, "SHORT_FOLDERS", short)
    state = tmp_path / ("deep" * 20) / ("deeper" * 10)
    state.mkdir(parents=True)
    address = control_address(state)
    assert len(address) < 107 + len("ipc://")
    sockets.hub = ZeroMqHub(None, None, sockets.authorise, control=state)
    operator = sockets.add(ControlLink(address))
    sockets.pump(lambda: sockets.events[id(operator)] == [LinkEvent.CONNECTED])
    assert control_is_there(state)
    folder = short / f"flctl-{os.geteuid()}"
    assert folder.stat().st_mode & 0o777 == 0o700
    sockets.hub.close()
    assert not list(folder.iterdir()), "nothing is left of it"
    folder.chmod(0o755)
    with pytest.raises(StateError, match="mode 0700"):
        control_address(state)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "HOST:PORT"),
        ("pc.local", "HOST:PORT"),
        (":7700", "HOST:PORT"),
        ("::1", "HOST:PORT"),
        ("pc:", "port must be a number"),
        ("pc:http", "port must be a number"),
        ("pc:0", "port must be a number"),
        ("pc:65536", "port must be a number"),
        ("pc:-1", "port must be a number"),
        ("pc:７７００", "port must be a number"),
    ],
)
def test_a_bad_address_is_one_clear_line(text, says):
    """It names what was given and how it should look."""
    with pytest.raises(UsageError, match=says) as error:
        ZeroMqLink(text, KeyPair.make(), KeyPair.make().public)
    assert "\n" not in str(error.value)


def test_a_host_that_does_not_exist_is_an_error_and_one_that_may_come_is_not(monkeypatch):
    """A Pi may start before its network is up."""

    def resolver(code):
        def getaddrinfo(*args, **kwargs):
            raise socket.gaierror(code, "no")

        return getaddrinfo

    address = addresses.parse_address("pc.local:7700")
    monkeypatch.setattr(socket, "getaddrinfo", resolver(socket.EAI_NONAME))
    with pytest.raises(UsageError, match=r"unknown host 'pc\.local'"):
        addresses.check_name(address)
    with pytest.raises(UsageError, match=r"unknown host 'pc\.local'"):
        addresses.to_bind(address)
    monkeypatch.setattr(socket, "getaddrinfo", resolver(socket.EAI_AGAIN))
    addresses.check_name(address)


def test_names_and_ipv6_can_be_bound_and_dialled(sockets):
    """`localhost` is bound as a number, and brackets hold an IPv6 address."""
    sockets.endpoint = "localhost:0"
    sockets.open_hub()
    sockets.connect("pi-01")
    assert addresses.parse_address("[::1]:7700") == addresses.Address("::1", 7700)
    assert addresses.Address("::1", 7700).endpoint == "tcp://[::1]:7700"


def test_no_secret_is_logged_or_shown(sockets, caplog):
    """Neither a pair's repr nor the log of a refused and an allowed key holds a secret."""
    caplog.set_level(logging.DEBUG)
    sockets.open_hub()
    sockets.connect("pi-01")
    stranger = sockets.link("stranger")
    sockets.pump(lambda: LinkEvent.KEY_REFUSED in sockets.events[id(stranger)])
    for pair in (*sockets.pairs.values(), sockets.server):
        assert pair.secret not in caplog.text
        assert pair.secret not in repr(pair)
        assert pair.secret not in f"{pair}"


def test_what_is_kept_for_a_peer_that_reads_nothing_is_bounded(sockets):
    """Then it is SLOW, long before its chunks are much memory; the others are served."""
    hub = sockets.open_hub()
    mute, other = sockets.connect("mute"), sockets.connect("pi-01")
    peer, others = sockets.peer_of(mute), sockets.peer_of(other)
    sockets.links.remove(mute)
    # Its own queue takes in a thousand, the kernel a few MB; the rest is what the hub keeps.
    sent = sum(hub.send(peer, [b"pre", b"x" * 60_000]) is Sent.OK for _ in range(3_000))
    assert sent < 1_500
    assert hub.send(others, [b"pre", b"for you"]) is Sent.OK
    sockets.pump(lambda: bool(sockets.got[id(other)]))
    mute.close()
