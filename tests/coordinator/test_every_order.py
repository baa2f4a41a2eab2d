"""One run as it is run, in every order of events: hypothesis plays the agents, the network, the
disk and the clock around the real `Run`, which drives the real machine of its rounds."""

import os
import shutil
import tempfile
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from memory_fleet import MEASURES

from flctl.coordinator.run import storing
from flctl.coordinator.run.context import Heard, RunContext
from flctl.coordinator.run.run import Run
from flctl.coordinator.store.journal import Journal, read_events
from flctl.coordinator.store.resume import FirstModel, start_run, take_up
from flctl.core import round as machine
from flctl.core.events import UpdateStored
from flctl.core.roster import Roster
from flctl.core.round import Back, Gone, Tick
from flctl.settings import parse
from flctl.transport.gate import Gate
from flctl.wire.messages import (
    Accepted,
    BlobGone,
    Cancel,
    Chunk,
    Claim,
    Coded,
    DatasetInfo,
    Device,
    Discarded,
    Failed,
    Fetch,
    Hello,
    Train,
    UpdateReady,
)
from flctl.wire.parameters import dump

NAMES = ["pi-01", "pi-02", "pi-03"]
TASK = "d" * 64
anybody = st.sampled_from(NAMES)


def blob(shift: float) -> tuple[int, str, int]:
    """A model or an update of two chunks, as a file in memory with its digest and size."""
    fd = os.memfd_create("blob")
    return fd, *dump(fd, {"weight": ("F32", np.full(70_000, shift, np.float32))}, {"task": "toy"})


class Disk:
    """Work runs when the test says so, and its outcome comes when the test says so."""

    def __init__(self) -> None:
        self.waiting: deque[tuple[Any, Any]] = deque()
        self.done: deque[Any] = deque()

    def submit(self, work: Any, done: Any) -> None:
        self.waiting.append((work, done))

    def work(self) -> None:
        work, done = self.waiting.popleft()
        try:
            outcome = work(), None
        except Exception as error:
            outcome = None, error
        self.done.append(lambda: done(*outcome))

    def finish(self) -> None:
        while self.done:
            self.done.popleft()()

    def close(self) -> None:
        pass


class Synced:
    """Stands for the sync of files; knows whether it was waited for."""

    first: "Synced | None" = None
    """Of what was in the spool when the coordinator started."""

    def __init__(self, *_: Any) -> None:
        self.waited = False
        self.beside: list[Any] = []
        Synced.first = Synced.first or self

    def also(self, sync: Any) -> None:
        """The journal's, which has the events of these files already."""
        journal: Recorder = sync.__self__
        journal.files |= dict.fromkeys(journal.new, self)
        journal.new.clear()
        self.beside.append(sync)

    def wait(self) -> None:
        self.waited = True
        while self.beside:
            self.beside.pop()()


class Recorder(Journal):
    """Knows which of its updates a power cut could still take."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.files: dict[str, Synced] = {}
        self.new: set[str] = set()
        """Appended, and their files' sync has not begun."""
        self.unsynced: set[str] = set()
        self.synced_bytes = path.stat().st_size

    def append(self, events: Any, sync: bool = True) -> None:
        super().append(events, sync)
        for event in events:
            if isinstance(event, UpdateStored):
                self.files.pop(event.agent, None)
                self.new.add(event.agent)
                self.unsynced.add(event.agent)
        if sync:
            self._is_synced()

    def sync(self) -> None:
        super().sync()
        self._is_synced()

    def _is_synced(self) -> None:
        self.unsynced.clear()
        self.synced_bytes = self.path.stat().st_size


class Pi:
    """One agent: what it was told, what it has, whether its connection stands."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.order: Train | None = None
        self.offer: UpdateReady | None = None
        self.update = b""
        self.asked: deque[Fetch] = deque()
        self.cut = False
        """Its connection is broken, and the coordinator does not know yet."""


class World:
    """The fleet around a run, as `flctl.coordinator.run.context.RunHost` has it."""

    def __init__(self, folder: Path) -> None:
        self.state, self.now = folder, 1000.0
        self.roster, self.gate = Roster(), Gate(lambda: self.now)
        self.pis = {name: Pi(name) for name in NAMES}
        self.disk = Disk()
        self.run: Run | None = None
        self.accepted: set[tuple[int, str]] = set()
        """(round, agent) of all that were told that their update is safe."""
        given = {"task": "toy", "partition": "iid", "rounds": 2, "quorum": 2, "evaluate": "none"}
        given |= {"deadline_s": 60.0, "wait_s": 10.0, "attempts": 1000}
        fd, digest, size = blob(0.0)
        first = FirstModel(parse(given, "test"), TASK, MEASURES, digest, size, fd)
        self.folder = start_run(folder, first, "fleet", 0.0)
        os.close(fd)
        for name in NAMES:
            self.hello(name)

    # What the coordinator does --------------------------------------------------------

    def tell(self, agent: str, message: Any) -> bool:
        pi, member = self.pis[agent], self.roster.member(agent)
        if member.peer is None:
            return False
        if pi.cut:
            before = Counted.events
            self.lose(agent)
            assert Counted.events == before, "what a send finds out waits for the end of the step"
            return False
        match message:
            case Train():
                standing = (
                    self.run.round.standings().get(agent) if self.run and self.run.round else None
                )
                assert standing not in ("whole", "stored", "safe"), "its update is here"
                assert (message.key.round, agent) not in self.accepted, "it trains twice"
                if pi.offer is not None and pi.offer.key == message.key:
                    self.heard(agent, pi.offer)
                else:
                    pi.order, pi.offer = message, None
            case Fetch():
                pi.asked.append(message)
            case Accepted() if pi.offer is not None and pi.offer.key == message.key:
                syncing = self.journal.files.get(agent, Synced.first)
                assert syncing is not None and syncing.waited, "its file is not on disk"
                assert agent not in self.journal.unsynced, "the journal is not on disk"
                pi.offer = None
                self.accepted.add((message.key.round, agent))
            case Discarded() if pi.offer is not None and pi.offer.key == message.key:
                pi.offer = None
            case Cancel():
                pi.order = None
        return True

    def enrolled(self) -> list[str]:
        return NAMES

    trainers = enrolled

    def serve(self, *_: Any) -> None:
        pass

    def publish(self, *_: Any) -> None:
        pass

    # What happens to it -----------------------------------------------------------------

    def start(self) -> None:
        """The coordinator starts, or starts again after kill -9."""
        journal = self.journal = Recorder(self.folder.journal_path)
        history = self.folder.history(lean=True)
        if history.state == "finished":
            journal.close()
            self.run = None
            return
        awaits = history.awaits
        noted = take_up(self.folder, history, journal, self.now)
        context = RunContext(
            self.folder, self.folder.settings(history), history, journal, self, self.disk,
            self.disk, None, lambda: self.now, lambda: self.now,
        )  # fmt: skip
        self.run = Run(context)
        Synced.first = None
        self.run.begin(noted, awaits)

    def kill(self, power: bool) -> None:
        """As by kill -9, or a power cut: then what is not synced is lost, too."""
        if self.run is not None and not self.run.ended:
            self.run.abandon()
        self.run, self.disk = None, Disk()
        if power:
            os.truncate(self.journal.path, self.journal.synced_bytes)
        for name in NAMES:
            if self.roster.member(name).peer is not None:
                self.roster.on_unreachable(self.roster.member(name).peer, self.now)
            self.pis[name].asked.clear()

    def hello(self, name: str) -> None:
        pi = self.pis[name]
        pi.cut = False
        pi.asked.clear()
        hello = Hello(
            session=name.encode().hex().ljust(32, "0"), version="1", role="train",
            tasks={"toy": TASK}, device=Device(kind="x", arch="x", cores=1, memory_bytes=1),
            datasets=(DatasetInfo(name="default", task="toy", examples=10, held_out=0),),
        )  # fmt: skip
        self.roster.on_hello(name, name.encode(), hello, 1, self.now)
        if self.run is not None:
            self.run.on(Back(name))
        if pi.offer is not None:
            self.heard(name, pi.offer)

    def lose(self, name: str) -> None:
        peer = self.roster.member(name).peer
        if peer is not None:
            self.roster.on_unreachable(peer, self.now)
            if self.run is not None:
                self.run.on(Gone(name))

    def heard(self, name: str, message: Any, payload: Any = None) -> None:
        pi = self.pis[name]
        connected = not pi.cut and self.roster.member(name).peer is not None
        if connected and self.run is not None and not self.run.ended:
            self.run.on(Heard(name, message, payload))

    def train(self, name: str, bad: bool = False) -> None:
        pi, order = self.pis[name], self.pis[name].order
        if order is None:
            return
        pi.order = None
        fd, digest, size = blob(float("nan") if bad else NAMES.index(name) + order.key.round)
        pi.update = os.pread(fd, size, 0)
        os.close(fd)
        claim = Claim(examples=10, batches=1, loss=0.5, last_loss=0.4, seconds=1.0)
        update = Coded(blob=digest, size=size)
        pi.offer = UpdateReady(key=order.key, update=update, claim=claim)
        self.heard(name, pi.offer)

    def answer(self, name: str) -> None:
        pi = self.pis[name]
        if not pi.asked:
            return
        fetch = pi.asked.popleft()
        if pi.offer is None or pi.offer.update.blob != fetch.blob:
            self.heard(name, BlobGone(blob=fetch.blob))
            return
        data = pi.update[fetch.offset : fetch.offset + fetch.length]
        self.heard(name, Chunk(blob=fetch.blob, offset=fetch.offset), data)

    def tick(self, seconds: float) -> None:
        self.now += seconds
        if self.run is None or self.run.ended:
            return
        self.run.on(Tick())


class EveryOrder(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.world = World(self.folder)
        self.world.start()

    @rule(agent=anybody, bad=st.integers(0, 9))
    def train(self, agent: str, bad: int) -> None:
        """Its worker is done; now and then with NaN."""
        self.world.train(agent, bad=not bad)

    @rule(agent=anybody)
    def answer(self, agent: str) -> None:
        self.world.answer(agent)

    @rule(agent=anybody, cut=st.booleans())
    def deliver(self, agent: str, cut: bool) -> None:
        """All bytes come; the coordinator may find only when it says so that the agent is gone."""
        self.world.train(agent)
        while self.world.pis[agent].asked:
            self.world.answer(agent)
        self.world.pis[agent].cut |= cut

    @rule(agent=anybody)
    def offer_again(self, agent: str) -> None:
        if self.world.pis[agent].offer is not None:
            self.world.heard(agent, self.world.pis[agent].offer)

    @rule(agent=anybody, kind=st.sampled_from(["error", "owner"]))
    def fail(self, agent: str, kind: str) -> None:
        order = self.world.pis[agent].order
        if order is not None:
            self.world.pis[agent].order = None
            again_s = 5.0 if kind == "owner" else None
            failed = Failed(key=order.key, what="train", kind=kind, message="x", again_s=again_s)
            self.world.heard(agent, failed)

    @rule(agent=anybody)
    def lose_update(self, agent: str) -> None:
        """It reboots; what it had in memory is gone."""
        self.world.pis[agent].offer = self.world.pis[agent].order = None
        self.world.lose(agent)
        self.world.hello(agent)

    @rule(agent=anybody)
    def cut(self, agent: str) -> None:
        """The coordinator finds out when it sends."""
        self.world.pis[agent].cut = True

    @rule(agent=anybody)
    def go(self, agent: str) -> None:
        self.world.lose(agent)

    @rule(agent=anybody)
    def come_back(self, agent: str) -> None:
        self.world.hello(agent)

    @precondition(lambda self: self.world.disk.waiting)
    @rule(until_done=st.booleans())
    def disk_works(self, until_done: bool) -> None:
        self.world.disk.work()
        if until_done:
            self.world.disk.finish()

    @precondition(lambda self: self.world.disk.done)
    @rule()
    def disk_is_done(self) -> None:
        self.world.disk.finish()

    @rule(seconds=st.sampled_from([0.25, 3.0, 21.0, 70.0]))
    def wait(self, seconds: float) -> None:
        self.world.tick(seconds)

    @rule(power=st.booleans())
    def coordinator_dies(self, power: bool) -> None:
        self.world.kill(power)
        self.world.start()

    @precondition(lambda self: self.world.run is None or self.world.run.ended)
    @rule()
    def resume(self) -> None:
        self.world.start()

    @invariant()
    def what_was_accepted_counts(self) -> None:
        """In the journal, whatever has happened; and in the committed round."""
        run = self.world.run
        if run is None or run.ended:
            return
        for round_id, agent in self.world.accepted:
            if round_id <= run.history.round:
                event = run.history.rounds[round_id - 1]
                assert agent in event.participants or event.participants == {}  # a lean one
            else:
                assert agent in run.history.accepted

    def teardown(self) -> None:
        """Once all are back and do what they are asked to, the run ends."""
        if hasattr(self, "world"):
            self.settle()
            shutil.rmtree(self.folder)

    def settle(self) -> None:
        world = self.world
        for name in NAMES:
            world.hello(name)
        for _ in range(2000):
            if world.run is None or world.run.ended:
                world.start()
                if world.run is None:
                    break
            for name in NAMES:
                world.train(name)
                while world.pis[name].asked:
                    world.answer(name)
            while world.disk.waiting:
                world.disk.work()
            world.disk.finish()
            world.tick(1.0)
        if world.run is not None:
            world.run.abandon()
        history = world.folder.history()
        assert history.state == "finished", world.folder.journal_path.read_text()[-2000:]
        for event in history.rounds:
            assert len(event.participants) >= 2
            told = {agent for round_id, agent in world.accepted if round_id == event.round}
            assert told <= event.participants.keys()
        stored = [e for e in read_events(world.folder.journal_path) if isinstance(e, UpdateStored)]
        assert len({(e.round, e.agent) for e in stored}) == len(stored), "none is stored twice"


class Counted(machine.Round):
    """Its events."""

    events = 0

    def on(self, event: Any, now: float) -> Any:
        Counted.events += 1
        return super().on(event, now)


EveryOrder.TestCase.settings = settings(
    max_examples=40,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


@pytest.mark.usefixtures("played")
class TestEveryOrder(EveryOrder.TestCase):
    @pytest.fixture
    def played(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(storing, "Syncing", Synced)
        monkeypatch.setattr(machine, "Round", Counted)
