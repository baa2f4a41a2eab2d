"""Whoever says too much: it costs neither the disk nor the memory of the coordinator."""

import os
from typing import Any

import msgspec
import pytest
from memory_fleet import MemoryFleet

from flctl.cli.logs import FORMAT, _OneLine
from flctl.transport.keys import KeyPair
from flctl.wire import framing
from flctl.wire.messages import Ask, Failed, Join, Joined, Message, Refused


def failure(fleet: MemoryFleet, number: int) -> Failed:
    return Failed(
        key=fleet.coordinator.training.key,
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
    fleet.until(lambda: fleet.coordinator.training.key is not None)
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
            frames = [b"flc\x01", msgspec.msgpack.encode({"type": f"launch-{number}"})]
        else:
            frames = framing.encode(Join(token=f"flt_{number}", name=f"pi-{number}", shard=True))
        link.send(list(frames))
    fleet.step()
    shown = _OneLine(FORMAT)
    about = [shown.format(r) for r in caplog.records if r.name.startswith("flctl.coordinator")]
    assert 1 <= len(about) <= 10 and all(line.isprintable() for line in about)
    assert len(fleet.events) - events <= 20
    fleet.now += 60
    link.send([b"flc\x01", msgspec.msgpack.encode({"type": "launch"})])
    fleet.step()
    assert "more lines about it were left out" in caplog.text
    assert fleet.finish().state == "finished"


def test_strangers_share_what_may_be_written_about_them(fleet: MemoryFleet, caplog: Any):
    """A key is made in no time: forty of them are no reason for forty lines."""
    fleet.keyring.new_token(600, 1)
    for _ in range(40):
        link = fleet.network.link(KeyPair.make().public)
        for _ in range(3):
            fleet.step()
        link.send(framing.encode(Join(token="flt_wrong", name="pi-01")))
        link.send([b"flc\x01", os.urandom(40)])
        fleet.step()
    assert caplog.text.count("flt_wrong") == 0 and len(caplog.records) <= 20


def test_a_key_that_asks_to_join_without_end_is_to_wait(fleet: MemoryFleet):
    """Each time reads the list of keys anew; after a minute the right token still lets it in."""
    token = fleet.keyring.new_token(600, 1)
    link = fleet.network.link(KeyPair.make().public)

    def answers(token: str, times: int) -> list[Message]:
        for _ in range(times):
            link.send(framing.encode(Join(token=token, name="pi-09")))
            fleet.step()
        return [framing.to_agent()(frames)[1] for frames in link.receive()]

    refused = [said.message for said in answers("flt_wrong", 25) if isinstance(said, Refused)]
    assert sum("it is to wait" in text for text in refused) == 5
    assert isinstance(answers(token, 1)[0], Refused)
    fleet.now += 60
    assert isinstance(answers(token, 1)[0], Joined)


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
    assert not fleet.coordinator.operators._waiting
