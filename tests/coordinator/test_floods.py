"""Whoever says too much: it costs neither the disk nor the memory of the coordinator."""

import os
from typing import Any

import msgspec
import pytest
from memory_fleet import MemoryFleet

from flctl.coordinator.front.admission import GUEST_JOINS
from flctl.terminal.logs import FORMAT, _OneLine
from flctl.transport import allowlist
from flctl.transport.gate import LINES
from flctl.transport.keypair import KeyPair
from flctl.transport.keys import Keyring
from flctl.wire import framing
from flctl.wire.messages import Ask, Deal, Failed, Goodbye, Join, Joined, Message, Refused


def failure(fleet: MemoryFleet, number: int) -> Failed:
    return Failed(
        key=fleet.coordinator.training.round.key_of("pi-01"),
        what="train",
        kind="error",
        message=f"{number}\nINFO a line of its own" + "M" * 1900,
        retrying=True,
    )


@pytest.mark.parametrize("said", ["failed", "malformed", "join"])
def test_an_agent_that_complains_without_end_does_not_fill_the_log(
    fleet: MemoryFleet, said: str, caplog: Any
):
    """A minute has ten lines for each; how many more there were is said with the next one."""
    for agent in fleet.agents.values():
        agent.ticks = 30
    fleet.start_run(rounds=1)
    fleet.until(lambda: fleet.coordinator.training.round is not None)
    pair, link = KeyPair.make(), fleet.agents["pi-01"].link
    if said == "join":  # a supervisor would end with the answer
        fleet.keyring.add("pi-09", pair.public, "agent")
        link = fleet.network.link(pair.public)
        for _ in range(3):
            fleet.step()
    caplog.set_level("INFO", "flctl.coordinator")
    caplog.clear()
    events = len(fleet.events)
    for number in range(400):
        if said == "failed":
            frames = framing.encode(failure(fleet, number))
        elif said == "malformed":
            frames = [b"flc\x02", msgspec.msgpack.encode({"type": f"launch-{number}"})]
        else:
            frames = framing.encode(Join(token=f"flt_{number}", name=f"pi-{number}", shard=True))
        link.send(list(frames))
    fleet.step()
    shown = _OneLine(FORMAT)
    about = [shown.format(r) for r in caplog.records if r.name.startswith("flctl.coordinator")]
    assert 1 <= len(about) <= 10 and all(line.isprintable() for line in about)
    assert len(fleet.events) - events <= 20
    fleet.now += 60
    link.send([b"flc\x02", msgspec.msgpack.encode({"type": "launch"})])
    fleet.step()
    assert "more lines about it were left out" in caplog.text
    assert fleet.finish().state == "finished"


def test_who_comes_and_goes_without_end_does_not_fill_the_log(fleet: MemoryFleet, caplog: Any):
    """Three thousand times within a second: twenty lines about it, and the others go on."""
    pair = KeyPair.make()
    fleet.keyring.add("pi-09", pair.public, "agent")
    link = fleet.network.link(pair.public)
    for _ in range(3):
        fleet.step()
    caplog.set_level("INFO", "flctl")
    caplog.clear()
    hello = msgspec.structs.replace(
        fleet.coordinator.roster.member("pi-01").hello, session="9" * 32
    )
    for _ in range(3000):
        link.send(framing.encode(hello))
        link.send(framing.encode(Goodbye()))
        fleet.coordinator.step()
        link.inbox.clear()
    about = [r.getMessage() for r in caplog.records if "pi-09" in r.getMessage()]
    assert any("is here" in line for line in about) and any("lost" in line for line in about)
    assert len(about) <= LINES


def test_questions_without_end_do_not_fill_the_log(fleet: MemoryFleet, caplog: Any):
    """Each finds a run that cannot be read; so does a read key that says what it may not."""
    run = fleet.start_run(rounds=1)
    fleet.finish()
    (fleet.state / "runs" / run / "journal.jsonl").write_text("damaged\n")
    reader = KeyPair.make().public
    fleet.keyring.add("ana", reader, "read")
    fleet.keyring.add("ben", KeyPair.make().public, "read")
    link = fleet.network.link(reader)
    caplog.clear()
    for number in range(300):
        link.send(framing.encode(Ask(id=number, what="runs")))
        link.send(framing.encode(Goodbye()))
        link.send([b"flc\x02", msgspec.msgpack.encode({"type": f"launch-{number}"})])
        fleet.step(0.01)
        link.inbox.clear()
    assert 1 <= len(caplog.records) <= LINES


def test_strangers_share_what_may_be_written_about_them(fleet: MemoryFleet, caplog: Any):
    """A key is made in no time: forty of them are no reason for forty lines."""
    fleet.keyring.new_token(600, 1)
    for _ in range(40):
        link = fleet.network.link(KeyPair.make().public)
        for _ in range(3):
            fleet.step()
        link.send(framing.encode(Join(token="flt_wrong", name="pi-01")))
        link.send([b"flc\x02", os.urandom(40)])
        fleet.step()
    assert caplog.text.count("flt_wrong") == 0 and len(caplog.records) <= LINES


def joins(fleet: MemoryFleet, key: str, *asked: Join) -> list[Message]:
    link = fleet.network.link(key)
    for join in asked:
        link.send(framing.encode(join))
        fleet.step()
    return [framing.to_agent()(frames)[1] for frames in link.receive()]


def test_a_wrong_token_is_refused_without_a_look_into_the_file(
    fleet: MemoryFleet, monkeypatch: pytest.MonkeyPatch
):
    """Any number of them costs hashes in memory, and keeps nobody out who has the right one."""
    token = fleet.keyring.new_token(600, 1)
    changed: list[int] = []
    changing = allowlist.changing
    monkeypatch.setattr(allowlist, "changing", lambda *a: changed.append(1) or changing(*a))
    key = KeyPair.make().public
    said = joins(fleet, key, *(Join(token=f"flt_{n}", name="pi-09") for n in range(300)))
    taken = joins(fleet, key, Join(token=token, name="pi-01"))
    assert all(isinstance(m, Refused) and m.reason == "token" for m in (*said, *taken))
    assert len(said) == 300 and not changed
    assert isinstance(joins(fleet, key, Join(token=token, name="pi-09"))[0], Joined) and changed
    del changed[:]
    again = joins(fleet, key, *[Join(token="", name="pi-09")] * 50)
    assert all(isinstance(m, Joined) for m in again) and len(again) == 50 and not changed


def test_a_token_that_was_just_opened_is_known_at_once(fleet: MemoryFleet):
    """Another process has written it into the file within the last half second."""
    fleet.keyring.new_token(600, 1)
    fleet.step()
    token = Keyring(fleet.state / "keys", lambda: fleet.wall).new_token(600, 1)
    said = joins(fleet, KeyPair.make().public, Join(token=token))
    assert isinstance(said[0], Joined)


def test_all_guests_together_have_one_allowance_and_wait_for_the_next_minute(fleet: MemoryFleet):
    """Each has a key of its own and the right token; the one that is late is no wrong one, and
    its agent tries again by itself."""
    deal = Deal(of=2, partition="iid")
    token = fleet.keyring.new_token(6000, GUEST_JOINS + 9, deal)
    for _ in range(2):
        said = joins(fleet, KeyPair.make().public, Join(token=token, shard=True))
        assert isinstance(said[0], Joined)
    for _ in range(GUEST_JOINS - 2):  # all shards are assigned: each looks into the file, in vain
        said = joins(fleet, KeyPair.make().public, Join(token=token, shard=True))
        fleet.now -= 0.1
        assert isinstance(said[0], Refused) and "shards are assigned" in said[0].message
    said = joins(fleet, KeyPair.make().public, Join(token=token))
    assert isinstance(said[0], Refused) and said[0].reason == "guest" and said[0].retry_s > 0
    late = fleet.add("pi-09", enrol=False, token=token)
    fleet.until(lambda: late.supervisor.session.welcomed, within_s=200)


def test_for_an_agent_that_asks_and_does_not_read_nothing_is_kept(fleet: MemoryFleet):
    """Its key may not ask: the refusals go out, or are dropped."""
    pair = KeyPair.make()
    fleet.keyring.add("pi-09", pair.public, "agent")
    link = fleet.network.link(pair.public)
    fleet.network.queue = 50
    for number in range(200):
        link.send(framing.encode(Ask(id=number, what="status")))
        fleet.step()
    assert len(link.inbox) == 50
    assert fleet.coordinator.operators.kept == 0
