"""What operators see of a large fleet, and what watching for a long time costs."""

import contextlib
from pathlib import Path
from typing import Any

import pytest
from memory_fleet import MemoryFleet

from flctl.cli.finding import past
from flctl.coordinator import outgoing
from flctl.coordinator.journal import Journal
from flctl.coordinator.outgoing import KEPT_BYTES, Outgoing
from flctl.coordinator.runs import RunFolder
from flctl.core.history import Rejected
from flctl.errors import FlctlError, RunError
from flctl.fleet.console import Console
from flctl.fleet.driving import drive_remote
from flctl.records.recorded import RecordedRun
from flctl.transport.channel import LOCAL, Sent
from flctl.transport.keys import KeyPair
from flctl.wire.messages import AnswerPart, Message, RunEvent


def console(fleet: MemoryFleet) -> Console:
    link = fleet.network.link(LOCAL)
    list(link.events())  # that it is connected; nobody else asks
    link.on_idle = lambda _: fleet.step()
    return Console(link, "the test")


def test_the_status_of_hundreds_of_agents_arrives(fleet: MemoryFleet):
    """It is larger than one message may be."""
    for number in range(400):
        fleet.keyring.add(f"far-{number:03}", KeyPair.make().public, "agent")
    with console(fleet) as operator:
        names = [agent["name"] for agent in operator.status()["agents"]]
        assert len(names) == 403
        assert operator.status()["agents"][5]["name"] == names[5]


def test_who_watches_anew_is_told_once(fleet: MemoryFleet):
    """An operator asks again whenever it was quiet for long: in a week, thirty thousand times."""
    run = fleet.start_run(rounds=1)
    assert fleet.coordinator is not None
    before = len(fleet.coordinator._watchers)
    with console(fleet) as operator:
        for _ in range(50):
            next(operator.watch(run))
        assert len(fleet.coordinator._watchers) == before + 1
        fleet.finish()
        told = [event for event in seen(operator) if event["event"] == "round"]
        assert len(told) == 1
    fleet.coordinator.publish({"event": "any"})
    assert len(fleet.coordinator._watchers) == before, "the one that has left is forgotten"


def seen(operator: Console) -> list[dict[str, Any]]:
    return [m.event for m, _ in operator._messages(0) if isinstance(m, RunEvent)]


def test_a_run_can_begin_as_soon_as_another_one_is_stopped(
    fleet: MemoryFleet, monkeypatch: pytest.MonkeyPatch
):
    """As in a script: the answer comes when the run has ended, and nobody waits for more."""
    run = fleet.start_run(rounds=100)
    fleet.until(lambda: bool(fleet.named("round")))
    assert fleet.coordinator is not None
    watchers = len(fleet.coordinator._watchers)
    disk, steps = fleet.coordinator._disk, iter(range(1000))
    finish = disk.finish
    monkeypatch.setattr(disk, "finish", lambda: finish() if next(steps) > 9 else None)
    with console(fleet) as operator:
        assert operator.stop(run) == run
        operator.start({"task": "toy", "rounds": 1}, "the test")
    assert len(fleet.coordinator._watchers) == watchers


def test_an_event_larger_than_one_message_arrives(fleet: MemoryFleet):
    """As a round of hundreds of agents is; to whoever watches already, and again in the past."""
    run = fleet.start_run(rounds=1)
    assert fleet.coordinator is not None
    large = {"event": "round", "participants": {f"pi-{n:03}": "x" * 300 for n in range(700)}}
    with console(fleet) as operator:
        told = operator.watch(run)
        next(told)
        fleet.coordinator.publish(large)
        assert large in [next(told) for _ in range(40)]


def test_a_run_longer_than_any_answer_is_watched_to_its_end(
    fleet: MemoryFleet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """As one of 300 agents after 650 rounds: its journal comes in pages, or is not asked for."""
    run = fleet.start_run(rounds=2)
    fleet.until(lambda: bool(fleet.named("round")))
    folder = RunFolder.find(fleet.state, run)
    with contextlib.closing(Journal(folder.journal_path)) as journal:
        trouble = Rejected(at=1e9, round=1, agent="pi-01", reason="x" * 1000)
        journal.append([trouble] * 3000)
    monkeypatch.setattr(outgoing, "KEPT_BYTES", 4 * 2**20)
    fleet.kill_coordinator()
    fleet.start_coordinator()
    with console(fleet) as operator:
        with pytest.raises(FlctlError, match="the answer has"):
            operator._ask("run", run=run)
        result = drive_remote(operator, {}, "the test", lambda _: None, resume=run)
        assert (result.state, result.rounds) == ("finished", 2)
        assert operator.save_checkpoint(run, tmp_path / "model").stat().st_size > 0
        about = operator.about(run)
        assert "events" not in about
        found = RecordedRun(about, past(operator, about), operator)
        assert [event.round for event in found.rounds] == [1, 2]
        assert len(operator.run(run)["events"]) > 3000


class Slow:
    """An operator whose connection has room for `room` messages."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.got: list[tuple[Message, bytes | None]] = []

    def send(self, peer: bytes, message: Message, payload: bytes | None) -> Sent:
        if self.room == 0:
            return Sent.SLOW
        self.room -= 1
        self.got.append((message, payload))
        return Sent.OK


def test_a_slow_operator_gets_everything_in_order():
    """What there is no room for comes later; nothing is left out."""
    slow = Slow(room=2)
    out = Outgoing(slow.send)
    out.answer(b"p", 1, "x" * 1_000_000)
    for number in range(5):
        out.put(b"p", RunEvent(id=2, event={"n": number}))
    while slow.room == 0:
        slow.room = 1
        out.pump()
    parts = [m for m, _ in slow.got if isinstance(m, AnswerPart)]
    assert [part.last for part in parts] == [False, False, False, True]
    assert [m.event["n"] for m, _ in slow.got if isinstance(m, RunEvent)] == [0, 1, 2, 3, 4]


def test_an_operator_that_reads_nothing_is_given_up():
    """Not kept for: memory is bounded; and what no connection could take is an error in words."""
    slow = Slow(room=0)
    out = Outgoing(slow.send)
    payload = bytes(1 << 20)
    kept = 0
    while out.put(b"p", AnswerPart(id=1, last=False), payload):
        kept += 1
    assert kept * len(payload) <= KEPT_BYTES
    with pytest.raises(RunError, match="the answer has 76 MB"):
        out.answer(b"q", 1, "x" * 80_000_000)
