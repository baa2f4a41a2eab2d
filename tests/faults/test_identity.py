"""Part 4: who is who, and what those may do who are not who they say, or mean no good."""

import shutil
import socket
import time
from collections.abc import Callable, Iterator

import psutil
import pytest
from bed import Bed
from proxy import Proxy
from real_fleet import wait_for
from speaker import Speaker, Strangers, answers, hello, is_closed, send
from table import Result

from flctl.fleet.connecting import connect_coordinator
from flctl.transport.keypair import KeyPair, load_or_make
from flctl.wire import framing
from flctl.wire.messages import (
    CHUNK_BYTES,
    Ask,
    Chunk,
    Claim,
    Coded,
    Fetch,
    Goodbye,
    Heartbeat,
    Message,
    Refused,
    Telemetry,
    Train,
    UpdateReady,
    WorkKey,
)

pytestmark = [pytest.mark.timeout(600)]

MB = 1 << 20
Unbroken = Callable[..., None]


@pytest.fixture
def proxy(bed: Bed) -> Iterator[Proxy]:
    proxy = Proxy(f"127.0.0.1:{bed.port}")
    yield proxy
    proxy.close()


def state_of(bed: Bed, name: str) -> str:
    return str(bed.status().get(name, {}).get("state"))


def until_state(bed: Bed, name: str, state: str, within_s: float = 90.0) -> float:
    began = time.monotonic()
    wait_for(lambda: state_of(bed, name) == state, f"{name} {state}", within_s)
    return time.monotonic() - began


def memory(bed: Bed) -> int:
    return int(psutil.Process(bed.processes["coordinator"].pid).memory_info().rss)


def test_two_with_one_key(bed: Bed, row: Result, unbroken: Unbroken):
    """A copied SD card: neither counts while both live; once one has gone the other does."""
    row.fault = "two live agents with one key"
    bed.start_all()
    (bed.folder / "clone").mkdir()
    shutil.copy(bed.folder / "pi-02" / "agent.key", bed.folder / "clone")
    shutil.copy(bed.data("pi-02"), bed.data("clone"))
    bed.start_agent("clone")
    row.noticed_s = until_state(bed, "pi-02", "conflict")
    run = bed.begin(2, quorum=0.5, wait_s=5.0)
    assert bed.until_over(run) == "finished"
    assert all(list(r["participants"]) == ["pi-01"] for r in bed.events(run, "round"))
    assert "two machines use the key" in bed.log("clone")
    bed.kill("clone")
    row.recovered_s = until_state(bed, "pi-02", "ready")
    run = bed.begin(2)
    assert bed.until_over(run) == "finished"
    unbroken(bed, run)


def test_a_reboot_is_no_clone(bed: Bed, proxy: Proxy, row: Result, unbroken: Unbroken):
    """Power goes and the network hides it: the same Pi is back within seconds."""
    row.fault = "reboot behind a hanging connection"
    bed.start_coordinator()
    bed.start_agent("pi-01")
    bed.dialled = proxy.address
    bed.start_agent("pi-02")
    bed.until_ready()
    bed.pace("pi-02", 2)
    run = bed.begin(3)
    bed.until_round(run, 1)
    bed.until_training("pi-02")
    proxy.freeze()
    bed.kill("pi-02")
    bed.pace("pi-02", 0)
    bed.start_agent("pi-02")
    wait_for(lambda: bed.log("pi-02").count(" connected") == 2, "it connects")
    began = time.monotonic()
    wait_for(lambda: bed.log("pi-02").count(" welcome ") == 2, "it is welcome")
    row.recovered_s = time.monotonic() - began
    assert row.recovered_s < 15
    assert bed.until_over(run) == "finished"
    assert "two machines" not in bed.log("coordinator")
    unbroken(bed, run, own_faults={"pi-02": 1})


def test_enrolled_later(make_bed: Callable[..., Bed], row: Result, unbroken: Unbroken):
    """An unlisted key is shown as waiting, and comes in by itself once it is listed."""
    row.fault = "an unlisted key, enrolled later"
    bed = make_bed()
    bed.start_all()
    pair = load_or_make(bed.folder / "pi-03" / "agent.key")
    bed.data("pi-03").write_text("1.0\n2.0\n")
    bed.start_agent("pi-03")

    def waiting() -> list[str]:
        with connect_coordinator(bed.state) as console:
            return [entry["public_key"] for entry in console.keys()["waiting"]]

    wait_for(lambda: pair.public in waiting(), "it waits")
    run = bed.begin(2)
    assert bed.until_over(run) == "finished"
    with connect_coordinator(bed.state) as console:
        console.add_key("pi-03", pair.public, "agent")
    row.recovered_s = until_state(bed, "pi-03", "ready")
    assert row.recovered_s <= 45
    unbroken(bed, run)


def test_revoked_in_a_round(bed: Bed, row: Result, unbroken: Unbroken):
    """Its live connection is worth nothing any more, and its update does not count."""
    row.fault = "revoked in the middle of a round"
    bed.start_all()
    bed.pace("pi-02", 3)
    run = bed.begin(2, quorum=0.5)
    bed.until_training("pi-02")
    began = time.monotonic()
    with connect_coordinator(bed.state) as console:
        console.revoke("pi-02")
    wait_for(lambda: "reason=revoked" in bed.log("pi-02"), "it is told")
    row.noticed_s = time.monotonic() - began
    assert bed.until_over(run) == "finished"
    assert all(list(r["participants"]) == ["pi-01"] for r in bed.events(run, "round"))
    assert row.noticed_s < 10
    unbroken(bed, run)


def test_gone_for_good(bed: Bed, row: Result, unbroken: Unbroken):
    """A Pi burns in a round that cannot do without it; another one takes its place."""
    row.fault = "a Pi gone for good, and another one"
    bed.start_all()
    bed.pace("pi-02", 3)
    run = bed.begin(2, agents=[], attempts=1, deadline_s=30.0)
    bed.until_training("pi-02")
    bed.kill("pi-02")
    shutil.rmtree(bed.folder / "pi-02")
    wait_for(lambda: bed.events(run, "paused"), "a pause")
    bed.agents = ("pi-01", "pi-03")
    bed.enrol("pi-03")
    bed.data("pi-03").write_text("1.0\n2.0\n3.0\n")
    bed.start_agent("pi-03")
    bed.until_ready()
    with connect_coordinator(bed.state) as console:
        console.revoke("pi-02")
    began = time.monotonic()
    bed.until_round(run, 1)
    row.recovered_s = time.monotonic() - began
    assert bed.until_over(run) == "finished"
    took_part = [sorted(line["participants"]) for line in bed.events(run, "round")]
    assert took_part == [["pi-01", "pi-03"]] * 2
    unbroken(bed, run)


def test_wrong_server_key(bed: Bed, proxy: Proxy, row: Result, unbroken: Unbroken):
    """The agent says so in one line, and does not hammer; nobody else notices."""
    row.fault = "wrong server key"
    bed.start_coordinator()
    bed.start_agent("pi-01")
    right, bed.server_key = bed.server_key, KeyPair.make().public
    proxy.taken = []
    bed.dialled = proxy.address
    bed.start_agent("pi-02")
    bed.server_key = right
    told = "does not have this agent's server key"
    began = time.monotonic()
    wait_for(lambda: told in bed.log("pi-02"), "it is told")
    row.noticed_s = time.monotonic() - began
    dialled, silent = len(proxy.taken), time.monotonic()
    run = bed.begin(2, agents=["pi-01"])
    assert bed.until_over(run) == "finished"
    wait_for(lambda: time.monotonic() - silent > 8, "8 of its 10 s of silence", 20)
    # One may have been on its way. Before, each agent has a pace of its own: 0.2 to 2 s.
    assert len(proxy.taken) <= dialled + 1 <= 30
    assert bed.log("pi-02").count(told) == 1
    unbroken(bed, run)


def test_replayed_traffic(bed: Bed, proxy: Proxy, row: Result, unbroken: Unbroken):
    """All that an agent has sent, sent again: it is nobody, and changes nothing."""
    row.fault = "replayed traffic"
    proxy.taken = []
    bed.start_coordinator()
    bed.start_agent("pi-01")
    bed.dialled = proxy.address
    bed.start_agent("pi-02")
    bed.until_ready()
    run = bed.begin(2, task="boulder")
    assert bed.until_over(run) == "finished"
    taken = bytes(proxy.taken[0])  # it grows on while the agent speaks
    assert len(taken) > 2 * 600_000
    before = bed.log("coordinator").count("is here")
    run = bed.begin(3, task="boulder")
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", bed.port), timeout=20) as sock:
            try:
                sock.sendall(taken)
            except OSError:
                continue  # it has hung up already
            assert is_closed(sock, 20)
    row.times = 5
    assert bed.until_over(run) == "finished"
    assert bed.log("coordinator").count("is here") == before
    assert " lost: " not in bed.log("coordinator")
    unbroken(bed, run)


def test_guests_may_only_join(bed: Bed, row: Result, unbroken: Unbroken):
    """While a token is open, whoever says anything else is told to join, and no more."""
    row.fault = "a guest says anything but Join"
    bed.start_all()
    run = bed.begin(4)
    with connect_coordinator(bed.state) as console:
        console.token(600, 1)
    key = WorkKey(run=run, version=0, base="a" * 64, sequence=1)
    claim = Claim(examples=1, batches=1, loss=0.0, last_loss=0.0, seconds=0.0)
    offer = UpdateReady(key=key, update=Coded(blob="b" * 64, size=10), claim=claim)
    said: list[Message] = [
        hello(),
        Heartbeat(sequence=1, state="ready", telemetry=Telemetry()),
        offer,
        Fetch(blob="a" * 64, offset=0, length=10),
        Goodbye(),
        Ask(id=1, what="status"),
        Ask(id=2, what="stop", args={"run": run}),
        Ask(id=3, what="key-add", args={"name": "me", "key": "k" * 40, "role": "admin"}),
    ]
    with Strangers(bed) as strangers:
        for message in said:
            sock = strangers.dial()
            assert sock.poll(5000, 2), "it is let in as a guest"
            send(sock, framing.encode(message))
            got = answers(sock, 2)
            assert [m.reason for m in got if isinstance(m, Refused)] == ["guest"] and len(got) == 1
        sock = strangers.dial()
        for frames in (
            [b""],
            [b"flc\x02", b"\xff" * 60_000],
            [b"flc\x02", b"", b"x" * CHUNK_BYTES],
        ):
            send(sock, frames)
        send(sock, [b"flc\x02", b"x" * (1 << 20)])
        assert not answers(sock, 2)
    row.times = len(said) + 4
    assert bed.until_over(run) == "finished"
    assert sorted(bed.status()) == sorted(bed.agents)
    unbroken(bed, run)


def test_strangers(make_bed: Callable[..., Bed], row: Result, unbroken: Unbroken):
    """Two thousand connections, with a key or without; a limit of open files that the idle ones
    alone would use up; and the run goes on, and all is given back."""
    row.fault = "strangers connect 2,300 times"
    bed = make_bed()
    few = ("sh", "-c", 'ulimit -Sn 256 && exec "$@"', "sh")
    bed.start_coordinator(prefix=few)
    for name in bed.agents:
        bed.start_agent(name)
    bed.until_ready()
    coordinator = psutil.Process(bed.processes["coordinator"].pid)
    files, rss = coordinator.num_fds(), memory(bed)
    run = bed.begin(200)
    with Strangers(bed) as strangers:
        for _ in range(300):
            strangers.plain()
        for _ in range(20):
            socks = [strangers.dial() for _ in range(50)]
            for sock in [strangers.plain() for _ in range(50)]:
                sock.sendall(b"GET / HTTP/1.1\r\n\r\n" * 10)
            for sock in socks:
                sock.poll(20)
                sock.close()
        committed = bed.committed(run)
        wait_for(lambda: bed.committed(run) > committed or bed.is_over(run), "a round goes on")
        with connect_coordinator(bed.state) as console:
            assert len(console.keys()["waiting"]) <= 64
    row.times = 2300
    if bed.is_over(run) is None:
        bed.stop(run)
    wait_for(lambda: coordinator.num_fds() <= files + 10, "its files are given back", 30)
    grown = (memory(bed) - rss) / MB
    row.note(f"the coordinator grew by {grown:.0f} MB")
    assert grown < 40
    assert " lost: " not in bed.log("coordinator")
    unbroken(bed, run, end=bed.is_over(run))


def test_a_byte_a_second(bed: Bed, proxy: Proxy, row: Result, unbroken: Unbroken):
    """A stranger is hung up on; an agent so slow is lost, and back when it is not."""
    row.fault = "a byte a second"
    bed.start_coordinator()
    bed.start_agent("pi-01")
    bed.dialled = proxy.address
    bed.start_agent("pi-02")
    bed.until_ready()
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", bed.port), timeout=20) as sock:
        for byte in b"\xff\0\0\0\0\0\0\0\x01\x7f\x03\0CURVE" + bytes(80):
            try:
                sock.send(bytes([byte]))
            except OSError:
                break
            if is_closed(sock, 1.0):
                break
    row.note(f"a stranger is hung up on after {time.monotonic() - began:.0f} s")
    assert time.monotonic() - began < 30
    began = time.monotonic()
    proxy.bytes_per_s = 1.0
    wait_for(lambda: state_of(bed, "pi-02") == "lost", "it is lost")
    row.noticed_s = time.monotonic() - began
    assert row.noticed_s < 60
    proxy.bytes_per_s = None
    proxy.reset()
    row.recovered_s = until_state(bed, "pi-02", "ready")
    run = bed.begin(2)
    assert bed.until_over(run) == "finished"
    unbroken(bed, run)


def test_peers_that_read_nothing(make_bed: Callable[..., Bed], row: Result, unbroken: Unbroken):
    """Four enrolled agents ask for the model again and again and never read: the others get it,
    and the coordinator does not pile it up."""
    row.fault = "peers that read nothing"
    bed = make_bed("pi-01", "pi-02", "pi-03", "pi-04", "pi-05", "pi-06")
    honest, mute = bed.agents[:2], bed.agents[2:]
    bed.start_coordinator()
    for name in honest:
        bed.start_agent(name)
    bed.until_ready(*honest)
    rss = memory(bed)
    run = bed.begin(3, task="mountain", agents=list(honest))
    bases = lambda: [e["base"] for e in bed.events(run, "opened")]  # noqa: E731
    wait_for(bases, "the first round")
    with Strangers(bed) as strangers:
        socks = []
        for name in mute:
            sock = strangers.dial(load_or_make(bed.folder / name / "agent.key"), receive_queue=1)
            sock.poll(10_000, 2)
            send(sock, framing.encode(hello()))
            socks.append(sock)
        peak, until = 0, time.monotonic() + 240
        while bed.is_over(run) is None:
            assert time.monotonic() < until, "the others wait"
            for sock in socks:
                for at in range(400):
                    fetch = Fetch(blob=bases()[-1], offset=at * 1000, length=CHUNK_BYTES)
                    if not send(sock, framing.encode(fetch)):
                        break
            peak = max(peak, memory(bed))
            time.sleep(0.05)
    assert bed.is_over(run) == "finished"
    row.times, grown = len(mute), (peak - rss) / MB
    row.note(f"the coordinator grew by {grown:.0f} MB")
    assert grown < 120
    unbroken(bed, run)


def test_offers_that_are_never_delivered(
    make_bed: Callable[..., Bed], row: Result, unbroken: Unbroken
):
    """Five agents promise updates and hold them back: the others' are fetched at once, and the
    round closes at its deadline."""
    row.fault = "offers that are never delivered"
    bed = make_bed("pi-01", "pi-02", "pi-03", "pi-04", "pi-05", "pi-06", "pi-07")
    honest, liars = bed.agents[:2], bed.agents[2:]
    bed.start_coordinator()
    for name in honest:
        bed.start_agent(name)

    def promise(speaker: Speaker, message: Message) -> None:
        if isinstance(message, Train):
            claim = Claim(examples=5, batches=2, loss=1.0, last_loss=1.0, seconds=1.0)
            promised = Coded(blob="b" * 64, size=message.model.shared.size)
            offer = UpdateReady(key=message.key, update=promised, claim=claim)
            speaker.say(offer)

    speakers = [Speaker(bed, name, promise) for name in liars]
    try:
        bed.until_ready()
        run = bed.begin(1, task="mountain", quorum=2 / 7, deadline_s=40.0)
        began = time.monotonic()
        wait_for(lambda: len(bed.events(run, "update")) == 2, "the others' updates")
        row.note(f"the others' updates were there after {time.monotonic() - began:.0f} s")
        assert bed.until_over(run) == "finished"
    finally:
        for speaker in speakers:
            speaker.close()
    row.times = len(liars)
    assert any(isinstance(m, Fetch) for m in speakers[0].heard)
    assert not any(isinstance(m, Chunk) for m in speakers[0].heard)
    (event,) = bed.events(run, "round")
    assert sorted(event["participants"]) == list(honest)
    assert 38 <= event["seconds"] < 80
    unbroken(bed, run)
