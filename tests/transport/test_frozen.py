"""A coordinator that stands still for longer than its peers wait, and goes on."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from flctl.transport import sockets
from flctl.transport.channel import LinkEvent
from flctl.transport.keypair import KeyPair
from flctl.transport.link import ZeroMqLink

WORDS = 75
"""An honest agent's in 25 s: three a second."""
HUB = """
import sys
from flctl.transport import sockets
sockets.HEARTBEAT_MS, sockets.HEARTBEAT_TIMEOUT_MS = 300, 1200
from flctl.transport.hub import ZeroMqHub
from flctl.transport.keypair import KeyPair
hub = ZeroMqHub("127.0.0.1:0", KeyPair(*sys.argv[1:]), lambda key: True)
print(hub.endpoint, flush=True)
while True:
    hub.wait(1.0)
    for incoming in hub.receive():
        hub.send(incoming.peer, incoming.frames)
"""


@pytest.fixture
def server_keys() -> KeyPair:
    return KeyPair.make()


@pytest.fixture
def hub(server_keys: KeyPair) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-c", HUB, server_keys.public, server_keys.secret]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def test_it_wakes_up_to_what_was_said_meanwhile(
    hub: "subprocess.Popen[str]", server_keys: KeyPair, monkeypatch: pytest.MonkeyPatch
):
    """Words and libzmq's own heartbeats are waiting, and the connection is broken already."""
    monkeypatch.setattr(sockets, "HEARTBEAT_MS", 300)
    monkeypatch.setattr(sockets, "HEARTBEAT_TIMEOUT_MS", 1200)
    assert hub.stdout is not None
    link = ZeroMqLink(hub.stdout.readline().strip(), KeyPair.make(), server_keys.public)

    def until(event: LinkEvent) -> None:
        over = time.monotonic() + 60
        while event not in list(link.events()):
            assert time.monotonic() < over, event
            link.wait(0.1)

    until(LinkEvent.CONNECTED)
    hub.send_signal(signal.SIGSTOP)
    for _ in range(WORDS):
        assert link.send([b"flc\x02", b"a word"])
    until(LinkEvent.DISCONNECTED)
    hub.send_signal(signal.SIGCONT)
    over = time.monotonic() + 60
    while [b"flc\x02", b"are you there?"] not in list(link.receive()):
        assert hub.poll() is None, f"it has ended with {hub.returncode}"
        assert time.monotonic() < over
        link.send(
            [b"flc\x02", b"are you there?"]
        )  # lost where a slow machine's heartbeats are late
        link.wait(0.1)
    link.close()
