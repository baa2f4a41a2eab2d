"""Part 4: messages of very many frames, which libzmq keeps until their last one has come."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bed import Bed
from flood import Flooder
from real_fleet import wait_for
from speaker import hello
from table import Result

from flctl.fleet.connecting import connect_coordinator
from flctl.transport.keypair import KeyPair
from flctl.transport.keys import Keyring
from flctl.transport.sockets import FRAME_BYTES
from flctl.wire.messages import Ask, Join, Message

pytestmark = [pytest.mark.timeout(600)]

Unbroken = Callable[..., None]
PEAK_MB = 400
CURVE_BYTES = 33
SHAPES = [
    (10_000, 1),
    (10_000, 1024),
    (10_000, 8 * 1024),
    (10_000, FRAME_BYTES - CURVE_BYTES),
    (5_000_000, 1),
]
"""Frames of a message, and bytes of a frame; the fourth are the largest that libzmq takes."""
SILENT = "silent agent"
SAID: dict[str, Message | None] = {
    "guest": Join(token="flt_" + "x" * 43),
    "agent": hello(),
    "read": Ask(id=1, what="status"),
    "revoked": hello(),
    SILENT: None,
}
"""What each of them says first, as an honest one would."""
REVOKED_S = 2.0


def peak_mb(bed: Bed) -> float:
    text = Path(f"/proc/{bed.processes['coordinator'].pid}/status").read_text()
    return next(int(line.split()[1]) / 1024 for line in text.splitlines() if "VmHWM" in line)


def enrolled(bed: Bed, name: str, role: str) -> KeyPair:
    pair = KeyPair.make()
    Keyring(bed.state / "keys").add(name, pair.public, role)  # type: ignore[arg-type]
    return pair


@contextlib.contextmanager
def flooding(bed: Bed, pair: KeyPair) -> Iterator[Flooder]:
    flooder = Flooder(bed.port, bed.server_key, pair)
    try:
        yield flooder
    finally:
        flooder.close()


def let_in(bed: Bed, pair: KeyPair) -> Flooder:
    """It dials again when it is hung up on, as an honest peer does: guests share a quota, and the
    guest before may not have been dealt with yet."""
    for _ in range(10):
        flooder = Flooder(bed.port, bed.server_key, pair)
        wait_for(lambda it=flooder: it.is_let_in(0.05) or it.relay.closed.is_set(), "an answer", 20)
        if not flooder.relay.closed.is_set():
            return flooder
        flooder.close()
    raise AssertionError("it was hung up on ten times before it said anything")


def attack(
    bed: Bed, who: str, name: str, pair: KeyPair, frames: int, size: int, finished: bool
) -> None:
    """One message, from a connection that spoke before like an honest one."""
    with contextlib.closing(let_in(bed, pair)) as flooder:
        said = SAID[who]
        if said is not None:
            flooder.say(said)
            assert flooder.sock.poll(20_000), "it is heard"
        flooder.prepare(frames, size)
        if who == "revoked":
            Keyring(bed.state / "keys").revoke(name)
        flooder.fire(frames, size, finished)
        flooder.until_over()
        if who == "revoked":
            began = time.monotonic()
            wait_for(flooder.relay.closed.is_set, "its connection ends", 20)
            assert time.monotonic() - began < REVOKED_S * 3
        elif frames * (size + 35) > 12 << 20:
            wait_for(flooder.relay.closed.is_set, "its connection is closed", 20)


@pytest.mark.parametrize("who", SAID)
def test_a_message_of_very_many_frames(
    make_bed: Callable[..., Bed], row: Result, unbroken: Unbroken, who: str
):
    """It neither ends the coordinator nor takes its memory, and a neighbour's rounds go on."""
    row.fault = f"messages of very many frames: {who}"
    bed = make_bed("pi-01")
    shapes, times = (SHAPES, 2) if who != SILENT else (SHAPES[-2:], 1)
    shots = [(*shape, finished) for shape in shapes for finished in (True, False) * times]
    names = [f"evil-{number}" for number in range(len(shots))]
    role = "read" if who == "read" else "agent"
    pairs = [KeyPair.make() if who == "guest" else enrolled(bed, name, role) for name in names]
    bed.start_all()
    pid = bed.processes["coordinator"].pid
    if who == "guest":
        with connect_coordinator(bed.state) as console:
            console.token(3600, 1)
    run = bed.begin(10_000)
    bed.until_round(run, 1)
    for name, pair, shot in zip(names, pairs, shots, strict=True):
        before = bed.committed(run)
        attack(bed, who, name, pair, *shot)
        wait_for(lambda at=before: bed.committed(run) > at + 1, "a neighbour's round", 30)
    row.times = len(shots)
    bed.stop(run)
    row.note(f"the coordinator took {peak_mb(bed):.0f} MB at most")
    assert peak_mb(bed) < PEAK_MB
    assert bed.processes["coordinator"].pid == pid and not bed.ended("coordinator")
    assert not bed.events(run, "attempt"), "each round was committed in its first attempt"
    assert "agent=pi-01 lost" not in bed.log("coordinator")
    assert bed.log("pi-01").count(" connected") == 1, "the neighbour is not cut"
    assert bed.log("coordinator").count("connection closed: ") <= 120
    unbroken(bed, run, end="stopped")


def test_a_revoked_key_is_hung_up_on(make_bed: Callable[..., Bed], row: Result):
    """Its connection ends, whatever role it had and whether it ever spoke or not, and another one
    is refused in the handshake."""
    row.fault = "the connection of a revoked key"
    bed = make_bed("pi-01")
    keyring = Keyring(bed.state / "keys")
    pairs = {role: enrolled(bed, f"its-{role}", role) for role in ("agent", "read", "admin")}
    bed.start_coordinator()
    slowest = 0.0
    for role, pair in pairs.items():
        with flooding(bed, pair) as flooder:
            wait_for(lambda it=flooder: it.is_let_in(0.05), "it is let in", 20)
            flooder.say(hello() if role == "agent" else Ask(id=1, what="status"))
            assert flooder.sock.poll(20_000), "it is heard"
            keyring.revoke(f"its-{role}")
            began = time.monotonic()
            wait_for(flooder.relay.closed.is_set, "its connection ends", 20)
            slowest = max(slowest, time.monotonic() - began)
        with flooding(bed, pair) as again:
            assert not again.is_let_in(1.0)
    row.times, row.noticed_s = 3, slowest
    assert slowest < REVOKED_S
    bed.close()
