"""Operators who ask much, read little, or watch: what it costs the others is bounded."""

import contextlib
from typing import Any

import msgspec
import pytest
from memory_fleet import MemoryFleet
from memory_network import MemoryLink

from flctl.coordinator.background import InlineBackground
from flctl.coordinator.front import operators as control
from flctl.coordinator.front.operators import Control
from flctl.coordinator.front.turns import QUESTIONS
from flctl.coordinator.store.journal import Journal, read_events
from flctl.core.events import RunFinished, RunResumed
from flctl.core.stream import AgentCame, Published
from flctl.errors import AccessError
from flctl.fleet.console import RemoteRuns
from flctl.transport.channel import LOCAL
from flctl.transport.keypair import KeyPair
from flctl.wire import framing
from flctl.wire.messages import Answer, Ask, Message, RunEvent, Trouble


def heard(link: MemoryLink) -> list[Message]:
    return [framing.to_operator()(frames)[1] for frames in link.receive()]


def events(link: MemoryLink) -> list[dict[str, Any]]:
    told = (m.event for m in heard(link) if isinstance(m, RunEvent))
    return [msgspec.convert(event, Published).plain() for event in told]


def reader(fleet: MemoryFleet, name: str = "ana") -> MemoryLink:
    key = KeyPair.make().public
    fleet.keyring.add(name, key, "read")
    return fleet.network.link(key)


def ask(link: MemoryLink, number: int, what: str, **args: Any) -> None:
    assert link.send(framing.encode(Ask(id=number, what=what, args=args)))


class Held(InlineBackground):
    """Work that ends when a test says so, as on a slow disk."""

    def __init__(self) -> None:
        super().__init__()
        self.ended = False
        self.asked = self.did = 0

    def submit(self, work: Any, done: Any) -> None:
        self.asked += 1
        super().submit(work, done)

    def finish(self) -> None:
        if self.ended:
            self.did = self.asked
            super().finish()


def with_held_looks(fleet: MemoryFleet) -> Held:
    held = Held()
    fleet.coordinator.control = fleet.control = Control(
        fleet.coordinator, "memory:1", fleet.clock, held
    )
    return held


def test_a_key_has_a_few_open_questions_and_hears_that_at_once(fleet: MemoryFleet):
    """Over all its connections; others are answered meanwhile."""
    held = with_held_looks(fleet)
    link = reader(fleet)
    again = fleet.network.link(link.key)
    for number in range(QUESTIONS):
        ask(link if number % 2 else again, number, "runs")
    ask(link, 99, "runs")
    ask(again, 98, "status")
    other = fleet.network.link(LOCAL)
    ask(other, 1, "status")
    fleet.until(lambda: bool(other.inbox), within_s=2)
    refused = heard(link) + heard(again)
    assert {message.id for message in refused if isinstance(message, Trouble)} == {98, 99}
    assert all("questions of this key are open" in message.message for message in refused)
    held.ended = True
    fleet.until(lambda: len(link.inbox) + len(again.inbox) == QUESTIONS)
    ask(again, 98, "status")
    fleet.until(lambda: any(m.id == 98 for m in heard(again)))


def test_one_question_is_answered_in_a_step_and_the_keys_take_turns(fleet: MemoryFleet):
    """So none of them waits for all of another's, and agents are heard in between."""
    busy, other = reader(fleet), reader(fleet, "ben")
    for number in range(QUESTIONS):
        ask(busy, number, "status")
    ask(other, 1, "status")
    counts = []
    for _ in range(4):
        fleet.coordinator.step()
        counts.append((len(busy.inbox), len(other.inbox)))
    assert counts == [(1, 0), (1, 1), (2, 1), (3, 1)]
    assert fleet.network.current.woken >= 4, "it does not sleep while questions wait"


def test_a_journal_is_read_off_the_loop_and_only_one_at_a_time(fleet: MemoryFleet):
    """Rounds go on while it is being read."""
    run = fleet.start_run(rounds=3)
    held = with_held_looks(fleet)
    links = [reader(fleet, name) for name in ("ana", "ben", "cho")]
    for link in links:
        for number, what in enumerate(("run", "watch", "checkpoint", "journal")):
            ask(link, number, what, run=run)
    assert fleet.finish().state == "finished"
    assert held.asked == 1 and not any(link.inbox for link in links)
    held.ended = True
    fleet.until(lambda: held.did == 12)


def test_an_operator_that_does_not_read_has_no_more_answers_made_for_it(fleet: MemoryFleet):
    """Twelve thousand questions: what is kept is one answer and a few questions."""
    for number in range(300):
        fleet.keyring.add(f"far-{number:03}", KeyPair.make().public, "agent")
    fleet.network.queue = 4
    link = reader(fleet)
    most = 0
    for number in range(12_000):
        link.send(framing.encode(Ask(id=number, what="status")))
        if number % 50 == 0:
            fleet.coordinator.step()
            most = max(most, fleet.coordinator.operators.kept)
    assert 50_000 < most < 1_000_000
    link.close()
    fleet.step(1)
    assert fleet.coordinator.operators.kept == 0


def test_a_watcher_gets_the_events_of_its_run_only(fleet: MemoryFleet):
    """Another run of the same coordinator is another matter."""
    first = fleet.start_run(rounds=1)
    fleet.finish()
    link = reader(fleet)
    ask(link, 1, "watch", run=first)
    fleet.until(lambda: any(event["event"] == "finished" for event in events(link)))
    fleet.start_run(rounds=2)
    fleet.finish()
    assert events(link) == []


def test_what_happens_while_the_past_is_read_arrives_once(fleet: MemoryFleet):
    """It stands in the journal by then, or it does not; both come to the watcher once."""
    run = fleet.start_run(rounds=3)
    held = with_held_looks(fleet)
    link = reader(fleet)
    ask(link, 1, "watch", run=run)
    fleet.until(lambda: len(fleet.named("round")) == 1)
    fleet.coordinator.publish(Published("", AgentCame(agent="pi-77")))
    held.ended = True
    fleet.finish()
    got = events(link)
    journal = [msgspec.to_builtins(e) for e in fleet.history().rounds]
    assert [e["round"] for e in got if e["event"] == "round"] == [e["round"] for e in journal]
    numbers = [e["seq"] for e in got if "seq" in e]
    assert numbers == list(range(len(read_events(fleet.state / "runs" / run / "journal.jsonl"))))
    assert sum(e.get("agent") == "pi-77" for e in got) == 1


def test_a_revoked_reader_gets_no_more_events(fleet: MemoryFleet):
    """It is not asked first: it need not say anything to be refused."""
    run = fleet.start_run(rounds=4)
    link = reader(fleet)
    ask(link, 1, "watch", run=run)
    fleet.until(lambda: len(fleet.named("round")) == 1)
    fleet.keyring.revoke("ana")
    heard(link)
    fleet.finish()
    assert events(link) == []
    fleet.coordinator.publish(Published(run, AgentCame(agent="pi-77")))
    assert not fleet.control.watchers


def test_a_watch_of_a_run_that_is_not_there_leaves_nothing_behind(fleet: MemoryFleet):
    """It is refused, and its early events are not kept."""
    link = reader(fleet)
    before = len(fleet.coordinator.watchers)
    ask(link, 1, "watch", run="no-such")
    fleet.until(lambda: bool(link.inbox))
    assert isinstance(heard(link)[0], Trouble)
    assert len(fleet.coordinator.watchers) == before and not fleet.control.watchers


@pytest.mark.parametrize("dropped", [False, True])
def test_a_watcher_may_ask_whether_it_still_is_one(fleet: MemoryFleet, dropped: bool):
    """One that was dropped because it did not read is told so; its past is not read for it."""
    run = fleet.start_run(rounds=1)
    link = reader(fleet)
    ask(link, 5, "watch", run=run)
    fleet.until(lambda: bool(link.inbox))
    heard(link)
    if dropped:
        fleet.coordinator.operators.drop(link.peer)

    def says(question: int) -> Any:
        ask(link, 6, "watching", question=question)
        answers: list[Message] = []
        fleet.until(lambda: bool(answers.extend(heard(link)) or _of(answers, 6)))
        return _of(answers, 6)[0].body

    assert says(5) == {"watching": not dropped} and says(4) == {"watching": False}


def _of(answers: list[Message], number: int) -> list[Answer]:
    return [m for m in answers if isinstance(m, Answer) and m.id == number]


def watching(fleet: MemoryFleet, key: str = LOCAL) -> tuple[MemoryLink, RemoteRuns]:
    link = fleet.network.link(key)
    list(link.events())

    def idle(timeout_s: float) -> None:
        fleet.step(timeout_s)

    link.on_idle = idle
    return link, RemoteRuns(link, "the test", clock=fleet.clock)


def test_an_hour_of_quiet_reads_no_journal(fleet: MemoryFleet, monkeypatch: pytest.MonkeyPatch):
    """Whether events still come is asked, not the whole past again; new events are not missed."""
    run = fleet.start_run(rounds=1)
    fleet.finish()
    reads: list[int] = []
    look = control.look_at_past
    monkeypatch.setattr(control, "look_at_past", lambda *a: reads.append(1) or look(*a))
    _, operator = watching(fleet)
    events = operator.watch(run)
    began = fleet.now
    told = [event for event in iter(lambda: next(events), None) if event]
    while fleet.now < began + 3600:
        assert next(events) is None
    assert len(reads) == 1 and isinstance(told[-1].event, RunFinished)
    fleet.coordinator.publish(Published("", AgentCame(agent="pi-77")))
    assert any(next(events) for _ in range(3))


@pytest.mark.parametrize("why", ["dropped", "restarted"])
def test_a_watch_that_was_lost_is_asked_again(fleet: MemoryFleet, why: str):
    """For what was missed; the coordinator was restarted, or had dropped it."""
    run = fleet.start_run(rounds=1)
    fleet.finish()
    link, operator = watching(fleet)
    events = operator.watch(run)
    while next(events) is not None:
        pass
    if why == "restarted":
        fleet.kill_coordinator()
        fleet.start_coordinator()
    else:
        fleet.coordinator.operators.drop(link.peer)
    fleet.coordinator.publish(Published(run, AgentCame(agent="pi-77")))
    found = [event for event in (next(events) for _ in range(200)) if event]
    assert all(event.seq is None for event in found), "what was told before is not sent again"
    with contextlib.closing(Journal(fleet.state / "runs" / run / "journal.jsonl")) as journal:
        journal.append([RunResumed(at=1.0)])
    fleet.coordinator.operators.drop(link.peer)
    found = [event for event in (next(events) for _ in range(200)) if event]
    assert [type(event.event) for event in found if event.seq is not None] == [RunResumed]


@pytest.mark.parametrize("cut", [False, True])
def test_a_revoked_operator_reads_that_it_is(fleet: MemoryFleet, cut: bool):
    """Not that there is no answer; also where its connection is made again, and refused."""
    run = fleet.start_run(rounds=1)
    fleet.finish()
    key = KeyPair.make().public
    fleet.keyring.add("ana", key, "read")
    link, operator = watching(fleet, key)
    events = operator.watch(run)
    while next(events) is not None:
        pass
    fleet.keyring.revoke("ana")
    if cut:
        link.reconnect()
    with pytest.raises(AccessError, match="was revoked"):
        for _ in range(100):
            next(events)
