"""What goes wrong between two steps: somebody is gone while he is told something, and the like."""

import hashlib
from collections.abc import Sequence

import pytest
from memory_fleet import MemoryFleet

from flctl.coordinator.store.folder import RunFolder, all_runs
from flctl.coordinator.store.journal import Journal
from flctl.coordinator.store.over import RunsOver
from flctl.core.events import AnyEvent, RoundCommitted
from flctl.errors import StateError
from flctl.transport.channel import Sent
from flctl.transport.gate import Gate
from flctl.transport.keypair import KeyPair
from flctl.wire import framing
from flctl.wire.messages import Ask, Join, Joined, Refused


class Ticking(MemoryFleet):
    """No two readings of the clock are the same, as with a real one."""

    def clock(self) -> float:
        self.now += 1e-6
        return self.now


def test_who_may_only_read_does_not_take_a_rounds_model_away(make_fleet):
    """Nine models are asked for while an agent has not fetched the round's yet."""
    fleet: MemoryFleet = make_fleet(2)
    runs = []
    for seed in range(9):
        runs.append(fleet.start_run(rounds=1, seed=100 + seed, evaluate="none"))
        fleet.finish()
    auditor = KeyPair.make()
    fleet.keyring.add("auditor", auditor.public, "read")
    fleet.start_run(rounds=2, evaluate="none", agents=("pi-01", "pi-02"))
    fleet.agents["pi-02"].kill()
    fleet.until(lambda: fleet.coordinator.training.round is not None)
    link = fleet.network.link(auditor.public)
    list(link.events())
    for number, run in enumerate(runs, start=1):
        link.send(framing.encode(Ask(id=number, what="checkpoint", args={"run": run})))
        fleet.coordinator.step()
    assert len(list(link.receive())) == 9
    fleet.agents["pi-02"].start()
    history = fleet.finish()
    assert (history.state, history.reason) == ("finished", "")
    assert not fleet.named("agent-failed")


def test_who_is_gone_when_it_is_to_evaluate_is_not_waited_for(make_fleet):
    """To ask it shows that: the round is over when the other one has answered."""
    fleet: MemoryFleet = make_fleet(0)
    for name in ("pi-01", "pi-02"):
        fleet.add(name, held_out=10)
    fleet.start_run(rounds=1, quorum=0.5, evaluate="agents", deadline=600)
    hub, gone = fleet.hub, []
    plain = hub.send

    def send(peer, frames):
        asked = b"evaluate" in bytes(frames[1])[:40]
        if not gone and asked and peer == fleet.coordinator.roster.members["pi-02"].peer:
            gone.append(peer)
            fleet.agents["pi-02"].alive = False
        return Sent.GONE if peer in gone else plain(peer, frames)

    hub.send = send
    fleet.until(lambda: bool(gone))
    fleet.until(lambda: bool(fleet.named("round")), within_s=10)


def test_a_round_that_ends_while_its_updates_are_asked_for(make_fleet):
    """A transfer stands still, is asked for again, and that shows that its agent is gone."""
    fleet: MemoryFleet = make_fleet(2)
    fleet.start_run(rounds=1, quorum=0.5, evaluate="none", deadline=600)
    coordinator, hub = fleet.coordinator, fleet.hub
    fleet.agents["pi-01"].ticks = 60

    def fetched() -> list[str]:
        training = fleet.coordinator.training
        standings = training.round.standings() if training and training.round else {}
        return [agent for agent, standing in standings.items() if standing == "offered"]

    fleet.until(lambda: "pi-01" in fetched() and "pi-02" in coordinator.training.history.accepted)
    peer = coordinator.roster.members["pi-01"].peer
    for incoming in [i for i in hub.inbox if i.peer == peer]:
        hub.inbox.remove(incoming)
    fleet.agents["pi-01"].alive = False
    plain, since = hub.send, fleet.now

    def send(to, frames):
        return Sent.GONE if to == peer and fleet.now >= since + 14.9 else plain(to, frames)

    hub.send = send
    fleet.until(lambda: bool(fleet.named("round")), within_s=60)
    assert fleet.named("round")[0]["missing"] == ("pi-01",)


def test_for_whom_a_round_waits_is_told_at_once_and_not_at_each_arrival():
    """To those who watch already, too."""
    fleet = Ticking(0)
    try:
        names = [f"pi-{n:02}" for n in range(1, 21)]
        fleet.start_run(rounds=1, agents=(*names, "pi-99"), quorum=1, wait=30)
        assert len(fleet.named("waiting")) == 1
        for name in names:
            fleet.add(name)
            fleet.until(lambda name=name: fleet.coordinator.roster.is_free(name))
        fleet.until(lambda: fleet.named("waiting")[-1]["missing"].startswith("pi-99"), 20)
        assert len(fleet.named("waiting")) <= 8
    finally:
        fleet.close()


def test_a_journal_is_read_again_only_when_it_has_changed(fleet, monkeypatch):
    """Agents may offer what nobody waits for as often as they like."""
    run = fleet.start_run(rounds=2)
    fleet.until(lambda: bool(fleet.named("round")))
    reads = []
    plain = RunFolder.history
    monkeypatch.setattr(RunFolder, "history", lambda *a, **k: (reads.append(1), plain(*a, **k))[1])
    over = RunsOver(fleet.state, Gate())
    assert [over.is_over(run, "pi-01") for _ in range(5)] == [False] * 5
    assert len(reads) == 1
    fleet.finish()
    reads.clear()
    assert all(over.is_over(run, "pi-01") for _ in range(5))
    assert over.is_over("ecg-nobody-knows", "pi-01")
    assert len(reads) == 1


def test_a_damaged_journal_does_not_take_an_update_from_its_agent(fleet, caplog):
    """A person may mend it."""
    run = fleet.start_run(rounds=1)
    fleet.finish()
    over = RunsOver(fleet.state, Gate())
    journal = fleet.state / "runs" / run / "journal.jsonl"
    journal.write_bytes(b"x\n" + journal.read_bytes())
    assert [over.is_over(run, "pi-01") for _ in range(3)] == [False] * 3
    assert caplog.text.count("not an event") == 1


def test_a_disk_that_fails_while_somebody_joins_does_not_send_him_away(fleet, monkeypatch):
    """A token that is wrong does, for good; this is tried again."""
    guest = KeyPair.make()
    token = fleet.keyring.new_token(60.0, 1)
    link = fleet.network.link(guest.public)
    list(link.events())

    def said():
        (frames,) = link.receive()
        return framing.to_agent()(frames)[1]

    def fails(*_):
        raise StateError("keys/allowed.json: cannot write: the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(fleet.keyring, "redeem", fails)
        link.send(framing.encode(Join(token=token, name="pi-09")))
        fleet.coordinator.step()
        refused = said()
    assert isinstance(refused, Refused) and refused.reason == "guest"
    assert "the disk is full" in refused.message
    link.send(framing.encode(Join(token=token, name="pi-09")))
    fleet.coordinator.step()
    assert isinstance(said(), Joined)


def test_a_stop_while_a_round_is_written_down_comes_after_it(
    fleet: MemoryFleet, monkeypatch: pytest.MonkeyPatch
):
    """The journal has the round, so best and last are its models, it is told, and no spool is
    left: the stop waits for the few milliseconds of the write."""
    append = Journal.append

    def interrupted(self: Journal, events: Sequence[AnyEvent], sync: bool = True) -> None:
        if any(isinstance(event, RoundCommitted) and event.round == 2 for event in events):
            assert fleet.coordinator is not None and fleet.coordinator.training is not None
            fleet.coordinator.training.stop("stopped by an operator")
        append(self, events, sync)

    monkeypatch.setattr(Journal, "append", interrupted)
    fleet.start_run(rounds=5, keep_rounds=1)
    history = fleet.finish()
    assert (history.state, history.round) == ("stopped", 2)
    assert [event["round"] for event in fleet.named("round")] == [1, 2]
    (folder,) = all_runs(fleet.state)
    last = hashlib.sha256((folder.path / "last.safetensors").read_bytes()).hexdigest()
    assert last == history.rounds[-1].model
    assert not (folder.path / "rounds" / "0002" / "updates").exists()
