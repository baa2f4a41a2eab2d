"""What operators see of a large fleet, and what watching for a long time costs."""

import contextlib
from pathlib import Path
from typing import Any

import pytest
from memory_fleet import MemoryFleet
from memory_network import MemoryLink

from flctl.coordinator.front import outbox as outgoing
from flctl.coordinator.front.outbox import KEPT_BYTES, Outbox, Recipient
from flctl.coordinator.store.folder import RunFolder
from flctl.coordinator.store.journal import Journal
from flctl.core.events import Participant, RoundCommitted, UpdateRejected
from flctl.core.stream import AgentCame, Published
from flctl.errors import RunError
from flctl.fleet import connection
from flctl.fleet.console import RemoteRuns
from flctl.fleet.driving import drive_remote
from flctl.records.recorded import RecordedRun
from flctl.transport.blobs import Download
from flctl.transport.channel import LOCAL, Sent
from flctl.transport.keypair import KeyPair
from flctl.wire import framing
from flctl.wire.messages import AnswerPart, Message, RunEvent


def console(fleet: MemoryFleet, link: MemoryLink | None = None) -> RemoteRuns:
    link = link or fleet.network.link(LOCAL)
    list(link.events())  # that it is connected; nobody else asks
    link.on_idle = lambda _: fleet.step()
    return RemoteRuns(link, "the test")


def test_the_status_of_hundreds_of_agents_arrives(fleet: MemoryFleet):
    """It is larger than one message may be."""
    for number in range(400):
        fleet.keyring.add(f"far-{number:03}", KeyPair.make().public, "agent")
    with console(fleet) as operator:
        names = [agent["name"] for agent in operator.status()["agents"]]
        assert len(names) == 403
        assert operator.status()["agents"][5]["name"] == names[5]


def test_a_fleet_that_no_agent_can_join_is_no_fleet_to_wait_for(make_fleet: Any):
    """Without an agent and an open token a run is refused at once; with a token it waits."""
    fleet = make_fleet(0)
    with console(fleet) as operator:
        given = {"task": "toy", "rounds": 1, "wait_s": 5.0}
        with pytest.raises(RunError, match="and no token is open: flctl keys token makes one"):
            operator.start(given, "here")
        fleet.keyring.new_token(60.0, 1)
        assert operator.start(given, "here").startswith("toy-")


def test_who_still_offers_while_no_run_is_in_progress_is_ready(fleet: MemoryFleet):
    """It holds the update of a run that was stopped: an upgrade need not wait for that."""
    assert fleet.coordinator is not None
    member = fleet.coordinator.roster.member("pi-01")
    fleet.until(lambda: member.ready)
    fleet.step(1.0)
    with console(fleet) as operator:
        member.state = "offering"
        assert operator.status()["agents"][0]["state"] == "ready"
        assert fleet.status("pi-01")["state"] == "offering"  # as it is shown during a run


def test_who_watches_anew_is_told_once(fleet: MemoryFleet):
    """An operator asks again whenever it was quiet for long: in a week, thirty thousand times."""
    run = fleet.start_run(rounds=1)
    assert fleet.coordinator is not None
    before = len(fleet.coordinator.watchers)
    with console(fleet) as operator:
        for _ in range(50):
            next(operator.watch(run))
        assert len(fleet.coordinator.watchers) == before + 1
        fleet.finish()
        told = [event for event in seen(operator) if event["event"] == "round"]
        assert len(told) == 1
    fleet.coordinator.publish(Published(run, AgentCame(agent="pi-77")))
    assert len(fleet.coordinator.watchers) == before, "the one that has left is forgotten"


def seen(operator: RemoteRuns) -> list[dict[str, Any]]:
    return [m.event["event"] for m, _ in operator.messages(0) if isinstance(m, RunEvent)]


def test_a_run_can_begin_as_soon_as_another_one_is_stopped(
    fleet: MemoryFleet, monkeypatch: pytest.MonkeyPatch
):
    """As in a script: the answer comes when the run has ended, and nobody waits for more."""
    run = fleet.start_run(rounds=100)
    fleet.until(lambda: bool(fleet.named("round")))
    assert fleet.coordinator is not None
    watchers = len(fleet.coordinator.watchers)
    disk, steps = fleet.disk, iter(range(1000))
    finish = disk.finish
    monkeypatch.setattr(disk, "finish", lambda: finish() if next(steps) > 9 else None)
    with console(fleet) as operator:
        assert operator.stop(run) == run
        operator.start({"task": "toy", "rounds": 1}, "the test")
    assert len(fleet.coordinator.watchers) == watchers


def test_an_event_larger_than_one_message_arrives(fleet: MemoryFleet):
    """As a round of hundreds of agents is; to whoever watches already, and again in the past."""
    run = fleet.start_run(rounds=1)
    assert fleet.coordinator is not None
    part = Participant(examples=9, batches=9, loss=0.12345678, last_loss=0.0, seconds=1.2345678)
    people = {f"pi-{n:04}": part for n in range(1500)}
    large = Published(run, RoundCommitted(at=1.0, round=1, attempt=1, model="0" * 64, size=9,
                                          seconds=1.0, participants=people))  # fmt: skip
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
        trouble = UpdateRejected(at=1e9, round=1, agent="pi-01", reason="x" * 1000)
        journal.append([trouble] * 3000)
    monkeypatch.setattr(outgoing, "ANSWER_BYTES", 2 * 2**20)
    fleet.kill_coordinator()
    fleet.start_coordinator()
    with console(fleet) as operator:
        result = drive_remote(operator, {}, "the test", lambda _: None, resume=run)
        assert (result.state, result.rounds) == ("finished", 2)
        assert operator.save_checkpoint(run, tmp_path / "model").stat().st_size > 0
        about = operator.about(run)
        found = RecordedRun(about, operator.events(run), operator)
        assert [event.round for event in found.rounds] == [1, 2]
        assert len(list(operator.events(run))) > 3000


@pytest.mark.parametrize("restarted", [False, True])
def test_a_checkpoint_arrives_although_the_connection_breaks(
    fleet: MemoryFleet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, restarted: bool
):
    """What was under way is asked for again, also of a coordinator that was restarted."""
    run = fleet.start_run(rounds=1)
    fleet.finish()
    link = fleet.network.link(LOCAL)
    operator = console(fleet, link)
    requests, asked = Download.requests, iter(range(1000))

    def step(_: float) -> None:
        fleet.step()

    def breaks(_: float) -> None:
        link.on_idle = step
        if restarted:
            fleet.kill_coordinator()
            fleet.start_coordinator()
        else:
            link.reconnect()

    def ask(self: Download, now: float | None = None) -> Any:
        if next(asked) == 0:
            link.on_idle = breaks  # as soon as nothing has come yet
        return requests(self, now)

    monkeypatch.setattr(Download, "requests", ask)
    monkeypatch.setattr(connection, "ANSWER_S", 2.0)
    with operator:
        got = operator.save_checkpoint(run, tmp_path / "model").read_bytes()
    assert got == (RunFolder.find(fleet.state, run).path / "last.safetensors").read_bytes()


class Slow:
    """An operator whose connection has room for `room` messages."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.got: list[tuple[Message, bytes | None]] = []
        self.dropped: list[bytes] = []
        self.outgoing = Outbox(lambda _, *parts: framing.encode(*parts), self.send)
        self.outgoing.on_dropped = self.dropped.append

    def send(self, peer: bytes, frames: list[Any]) -> Sent:
        if self.room == 0:
            return Sent.SLOW
        self.room -= 1
        _, message, payload = framing.to_operator()(frames)
        self.got.append((message, payload))
        return Sent.OK


P, Q, R = (Recipient(peer.encode(), peer) for peer in "pqr")


def test_a_slow_operator_gets_everything_in_order():
    """What there is no room for comes later; nothing is left out."""
    slow = Slow(room=2)
    out = slow.outgoing
    out.answer(P, 1, "x" * 1_000_000)
    for number in range(5):
        out.put(P, RunEvent(id=2, event={"n": number}))
    while slow.room == 0:
        slow.room = 1
        out.pump()
    parts = [m for m, _ in slow.got if isinstance(m, AnswerPart)]
    assert [part.last for part in parts] == [False, False, False, True]
    assert [m.event["n"] for m, _ in slow.got if isinstance(m, RunEvent)] == [0, 1, 2, 3, 4]
    assert out.kept == 0 and not out.has_backlog(P.peer)


def test_what_operators_do_not_read_has_one_sum_in_bytes_and_the_largest_is_dropped():
    """Events are counted by what they hold; one that reads nothing takes nothing from others."""
    slow = Slow(room=0)
    out = slow.outgoing
    out.put(Q, RunEvent(id=1, event={"n": 1}))
    event = {"event": "round", "text": "x" * 60_000}
    hoarded, most = 0, 0
    while not slow.dropped:  # two connections of one key
        out.event(P if hoarded % 2 else Recipient(b"p2", "p"), 2, event)
        hoarded, most = hoarded + 1, max(most, out.kept)
    assert most <= KEPT_BYTES + 70_000 and KEPT_BYTES // 61_000 <= hoarded < 600
    assert slow.dropped[0] in (b"p", b"p2") and out.has_backlog(Q.peer)
    slow.room = 2000
    out.pump()
    assert out.kept == 0 and sum(m == RunEvent(id=1, event={"n": 1}) for m, _ in slow.got) == 1


def test_an_answer_larger_than_what_is_kept_is_an_error_in_words():
    """Nothing is kept of it."""
    slow = Slow(room=0)
    with pytest.raises(RunError, match="the answer has 76 MB"):
        slow.outgoing.answer(Q, 1, "x" * 80_000_000)
    assert slow.outgoing.kept == 0
