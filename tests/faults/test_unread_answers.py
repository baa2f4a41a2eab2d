"""Part 4: peers with a key that ask much and read nothing, or come and go without end."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import zmq
from bed import Bed
from real_fleet import wait_for
from speaker import Strangers, hello
from table import Result

from flctl.transport.keypair import KeyPair
from flctl.transport.keys import Keyring
from flctl.wire import framing
from flctl.wire.messages import Ask, Goodbye, Message

pytestmark = [pytest.mark.timeout(300)]

GROWTH_MB = 64
LINES = 20
"""About one source within a minute."""


def memory_mb(bed: Bed, what: str) -> float:
    text = Path(f"/proc/{bed.processes['coordinator'].pid}/status").read_text()
    return next(int(line.split()[1]) / 1024 for line in text.splitlines() if what in line)


def say(sock: "zmq.Socket[bytes]", message: Message) -> bool:
    """False when it is not taken within two seconds."""
    for _ in range(200):
        try:
            sock.send_multipart(framing.encode(message), zmq.NOBLOCK)
        except zmq.Again:
            time.sleep(0.01)
        else:
            return True
    return False


def test_twelve_thousand_unread_answers(make_bed: Callable[..., Bed], row: Result):
    """Each of 40 KB, to a read key that takes none; another operator is answered."""
    row.fault, row.times = "unread answers of a read key", 12_000
    bed = make_bed()
    keyring = Keyring(bed.state / "keys")
    for number in range(60):
        keyring.add(f"far-{number:02}", KeyPair.make().public, "agent")
    pair = KeyPair.make()
    keyring.add("ana", pair.public, "read")
    bed.start_coordinator()
    before = memory_mb(bed, "VmRSS")
    with Strangers(bed) as peers:
        sock = peers.dial(pair, receive_queue=1)
        # It may ask faster than it is heard: then its connection is closed, and it is done.
        asked = next((n for n in range(12_000) if not say(sock, Ask(id=n, what="status"))), 12_000)
        began = time.monotonic()
        assert len(bed.whole_status()["agents"]) == 62
        answered_s = time.monotonic() - began
    grown = memory_mb(bed, "VmHWM") - before
    row.note(f"{asked} asked, {grown:.0f} MB more; another was answered in {answered_s:.2f} s")
    closed = "connection closed" in bed.log("coordinator")
    assert (asked == 12_000 or (closed and asked > 1_000)) and grown < GROWTH_MB


def test_three_thousand_hellos_and_goodbyes(make_bed: Callable[..., Bed], row: Result):
    """Twenty lines within a minute, and the coordinator goes on."""
    row.fault, row.times = "an agent that comes and goes without end", 3000
    bed = make_bed()
    pair = KeyPair.make()
    Keyring(bed.state / "keys").add("pi-09", pair.public, "agent")
    bed.start_coordinator()
    began = time.monotonic()
    with Strangers(bed) as peers:
        sock = peers.dial(pair)
        for _ in range(3000):
            assert say(sock, hello()) and say(sock, Goodbye())
            while sock.poll(0):
                sock.recv_multipart()
        wait_for(lambda: bed.status()["pi-09"]["state"] == "stopped", "all are heard", 30)
    about = [line for line in bed.log("coordinator").splitlines() if "pi-09" in line]
    row.note(f"{len(about)} lines in {time.monotonic() - began:.0f} s")
    assert 1 <= len(about) <= LINES and time.monotonic() - began < 60
