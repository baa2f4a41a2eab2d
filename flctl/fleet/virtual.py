"""Virtual clients: a whole run in one process, without sockets.

The same task, local training, average and journal as a fleet's, so the same seed gives
the same model. Read `VirtualRun.run` from top to bottom.
"""

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from flctl.coordinator.run.aggregation import Aggregated, aggregate
from flctl.coordinator.run.decisions import (
    commit,
    evaluation_due,
    finish,
    is_last,
    measured_at,
    open_round,
    weigh_in,
)
from flctl.coordinator.run.scoring import AGENTS, parts_to_ask_for, scored
from flctl.coordinator.store.folder import RunFolder
from flctl.coordinator.store.journal import Journal
from flctl.coordinator.store.resume import expect_resumable, start_run, take_up, with_beginning
from flctl.core import events
from flctl.core.events import Score
from flctl.core.history import History
from flctl.core.metrics import merge
from flctl.core.round import Pool, draw
from flctl.core.stream import BatchTrained, Published, RunBegun
from flctl.errors import FlctlError, StateError
from flctl.fleet.clients import Clients, Trainer, first_model, test_data
from flctl.fleet.commits import Commits
from flctl.fleet.processes import (
    Alone,
    BatchMeasured,
    Blob,
    ClientTrained,
    MeasureBatch,
    Order,
    OrderDone,
    PersonaliseClient,
    TrainClient,
    Workers,
    workers,
)
from flctl.fleet.spool import Spool
from flctl.learning.examples import Examples
from flctl.learning.once import Once
from flctl.learning.residuals import Residuals
from flctl.learning.source import Dealt
from flctl.learning.summed import SummedMetrics
from flctl.learning.task import Task, task_of
from flctl.learning.training import OnStep
from flctl.settings import changed
from flctl.wire.messages import TRAINING, VALIDATION, Sums

logger = logging.getLogger(__name__)

Publish = Callable[[Published], None]


class VirtualRun:
    """A run of virtual clients in `folder`; `publish` gets every event as it happens.

    `between` is called before each client trains; what it raises ends the run.
    """

    def __init__(
        self,
        folder: RunFolder,
        publish: Publish = lambda _: None,
        between: Callable[[], None] = lambda: None,
        changes: Mapping[str, Any] | None = None,
        once: Once | None = None,
    ) -> None:
        self.folder, self._between = folder, between
        with contextlib.ExitStack() as undo:
            self._lock = folder.lock()
            undo.callback(self._lock.release)
            self.history: History = folder.history(lean=True)  # no other process can resume it now
            expect_resumable(folder, self.history)
            self.settings = changed(folder.settings(self.history), changes or {}, "the changes")
            self._changes = changes
            self._journal = Journal(folder.journal_path)
            undo.callback(self._journal.close)
            self._commits = Commits(self._journal, publish, self._durable)
            self._spool = Spool(folder)
            self._once = once or Once()
            self.task = self._once.of(task_of(self.settings))
            self._trainer = Trainer(folder, self.task, self.settings)
            self._clients = Clients(self.task, self.settings)
            self._tests = test_data(self.task, self.settings, self._once)
            self._shared: dict[str, Mapping[str, Examples]] = {}
            """What orders are about."""
            self._at: tuple[str, str, Examples] | None = None
            self._workers = self._make_workers()
            undo.pop_all()

    @classmethod
    def start(
        cls,
        state: Path,
        given: dict[str, Any],
        where: str,
        publish: Publish = lambda _: None,
        between: Callable[[], None] = lambda: None,
    ) -> "VirtualRun":
        once = Once()
        with contextlib.ExitStack() as undo:
            if (
                ray := given.get("engine") == "ray"
            ):  # missing data are reported before the folder is made
                from flctl.fleet.cluster import expect_shareable
                from flctl.fleet.ray_cluster import connect, disconnect

                connect(given.get("ray_address"))
                undo.callback(disconnect)
            first = first_model(with_beginning(state, given, where), where, once=once)
            try:
                if ray:
                    expect_shareable(once.of(task_of(first.settings)))
                folder = start_run(state, first, "virtual", _now())
            finally:
                os.close(first.fd)
            made = cls(folder, publish, between, once=once)
            undo.pop_all()
        return made

    def run(self) -> History:
        """All rounds that are left; what goes wrong pauses the run. Raises UsageError when
        there is none."""
        with contextlib.ExitStack() as stack:
            stack.callback(self._lock.release)
            stack.callback(self._journal.close)
            stack.callback(self._commits.close)
            stack.callback(self._workers.close)
            noted = take_up(self.folder, self.history, self._journal, _now(), self._changes)
            try:
                self._end(self._rounds(noted))
            except KeyboardInterrupt as error:
                reason = str(error) or "stopped by the user"
                self._end(events.RunStopped(at=_now(), reason=reason))
                raise
        return self.history

    def _rounds(self, noted: Sequence[events.AnyEvent]) -> events.AnyEvent:
        """One after another; how the run ends. `noted`: what `take_up` has written."""
        logger.info("run=%s begins at round %d", self.folder.name, self.history.round + 1)
        begun = RunBegun(
            run=self.folder.name,
            round=self.history.round,
            rounds=self.settings.rounds,
            task=self.settings.task,
            agents=self._clients.names,
        )
        for event in (begun, *noted):
            self._commits.add(event, written=True)
        try:
            self.folder.mend(self.history, self.settings.keep_rounds)
            here = self.history.accepted.items()
            self.history.accepted = {a: u for a, u in here if self._spool.has(u)}
            while not (finished := finish(self.history, self.settings, _now())):
                self._round(self.history.round + 1)
            self._commits.wait()
        except (FlctlError, OSError) as error:
            logger.info("run=%s paused: %s", self.folder.name, error)
            logger.debug("run=%s paused", self.folder.name, exc_info=error)
            return events.RunPaused(at=_now(), reason=str(error))
        return finished

    def _end(self, event: events.AnyEvent) -> None:
        self._commits.drop()
        for each in (
            self._commits.wait,
            lambda: self.folder.sync(self.history),
            lambda: self._journal.append([event]),
        ):
            with contextlib.suppress(StateError):  # a full disk must not hide the reason
                each()
        if isinstance(event, events.RunFinished):
            self.folder.forget_residuals()
        self.history.apply(event)
        self._commits.add(event, written=True)

    def _round(self, round_id: int) -> None:
        """Invite, train, aggregate, evaluate, commit."""
        began = time.monotonic()
        self._clients.refresh()
        opened, accepted = self.history.opened, self.history.accepted
        if opened is None or not (accepted or self._clients.training.keys() & {*opened.invited}):
            opened = self._open(round_id)
        done, there = self.history.accepted, self._clients.training
        left = [agent for agent in opened.invited if agent in there and agent not in done]
        for update, blob in self._train(left):
            self._spool.put(update, self.delivered(update, blob))
            self._record(update)
            logger.info(
                "round=%d agent=%s trained examples=%d batches=%d loss=%.4f took_s=%.1f",
                update.round,
                update.agent,
                update.examples,
                update.batches,
                update.loss,
                update.seconds,
            )
        updates, self._at = self.history.accepted, None
        made = aggregate(
            self.folder,
            round_id,
            weigh_in(updates),
            self.settings,
            held=self._spool.held,
            sync=False,
        )
        self._spool.clear()
        due = evaluation_due(self.history, self.settings, updates)
        score = self._evaluate(made) if due else None
        missing = set(self._clients.names) - self._clients.training.keys()
        seconds = time.monotonic() - began
        committed = commit(self.history, updates, made, score, missing, seconds, _now())
        topk = self.settings.compression == "topk"
        self._commits.commit(committed, self._files(made, updates), first=topk)
        self.history.apply(committed)
        self.folder.settle(committed, self.history, None)
        self._commits.tell()

    def delivered(self, update: events.UpdateStored, blob: Blob) -> Blob:  # noqa: ARG002
        """The file of an update as it is averaged; an experiment with hostile clients makes it
        another one."""
        return blob

    def _files(self, made: Aggregated, updates: Mapping[str, events.UpdateStored]) -> list[Path]:
        """What a power cut must not take from a round, files first, then their folders. What top-k
        has not sent is durable before the round's line: it could not be made again."""
        files, folder = made.files, self.folder
        if self.settings.compression == "topk":
            for agent, update in updates.items():
                own = folder.residuals_path(agent)
                position = self.history.positions.get(agent, 0) + update.batches
                files += [Residuals(own).path(position), own]
            files.append(folder.path / "residuals")
        return [*files, made.path.parent, folder.rounds_path, folder.path]

    def _durable(self, committed: events.RoundCommitted) -> None:
        logger.info("%s head=%s", committed.for_log(), self._journal.head)
        self.folder.forget(committed.round, self.settings.keep_rounds, synced=True)

    def _open(self, round_id: int) -> events.RoundOpened:
        names = frozenset(self._clients.training)
        drawn = draw(self.settings, round_id, Pool(names, names, len(names)))
        opened = open_round(self.folder, self.history, drawn, 1, _now())
        self._record(opened)
        return opened

    def _train(self, agents: Sequence[str]) -> Iterator[tuple[events.UpdateStored, Blob]]:
        """Their parts of the open round, in this order."""
        history, seed, training = self.history, self.settings.seed, self._clients.training
        round_id = history.round + 1

        def progress(order: Order, step: int, steps: int, loss: float) -> None:
            if isinstance(order, TrainClient):
                agent = order.seeding.agent
                self._commits.add(
                    BatchTrained(round=round_id, agent=agent, step=step, steps=steps, loss=loss)
                )

        def between() -> None:
            self._between()
            self._commits.look()

        self._share(TRAINING, training)
        orders = [TrainClient(history.base, history.seeding(agent, seed)) for agent in agents]
        for answer, blob in self._workers.do(orders, progress, between):
            assert isinstance(answer, ClientTrained) and blob is not None
            yield answer.update, blob

    def _evaluate(self, made: Aggregated) -> Score | None:
        how, found = self.settings.evaluate, {}
        last = is_last(self.history, self.settings, self.history.accepted)
        if how != "agents":
            found = self._measure(made, "tests", self._tests.get())
        answers = {}
        for part in parts_to_ask_for(how, found, last):
            own = self._clients.own(part)
            if part == "test" and found.keys() - {VALIDATION} and isinstance(own, Dealt):
                own = own.first(AGENTS)  # the others would stand nowhere
            answers[part] = self._measure(made, part, own)
        return scored(found, answers, self.task.measures, SummedMetrics(self.task).values)

    def _measure(
        self, made: Aggregated, what: str, parts: Mapping[str, Examples]
    ) -> dict[str, Sums]:
        """The sums of all batches are the same for any number of processes."""
        if not (names := measured_at(self.history, parts, private=bool(self.task.private))):
            return {}
        self._share(what, parts)
        size, whole = self.settings.test_batch_size, isinstance(self._workers, Alone)
        whole = whole or self.task.workers > 0 or type(self.task).collate is not Task.collate
        orders = [
            MeasureBatch(str(made.path), what, name, number, position)
            for name, position in names.items()
            for number in ([None] if whole else range(-(-len(parts[name]) // size)))
        ]
        found: dict[str, list[Sums]] = {name: [] for name in names}
        for order, (answer, _) in zip(orders, self._workers.do(orders), strict=True):
            assert isinstance(answer, BatchMeasured)
            found[order.name].append(answer.sums)
        return {name: merge(sums) for name, sums in found.items()}

    def _share(self, what: str, parts: Mapping[str, Examples]) -> None:
        """What orders are about from now on."""
        if self._shared.get(what) is not parts:
            self._shared[what] = parts
            self._workers.renew()

    def _work(self, order: Order, on_step: OnStep) -> OrderDone:
        """In this process, or in one of those that share the work."""
        match order:
            case TrainClient(base, seeding):
                examples = self._shared[TRAINING][seeding.agent]
                update, blob = self._trainer.train(examples, base, seeding, on_step=on_step)
                return OrderDone(ClientTrained(update=update), blob)
            case MeasureBatch(model, what, name, batch, position):
                if self._at is None or self._at[:2] != (what, name):
                    self._at = what, name, self._shared[what][name]
                sums = self._trainer.evaluate(Path(model), self._at[2], batch, (name, position))
                return OrderDone(BatchMeasured(sums=sums))
            case PersonaliseClient():
                raise AssertionError("not an order of a round")

    def _make_workers(self) -> Workers:
        if self.settings.engine == "ray":
            from flctl.fleet.cluster import Cluster

            return Cluster(self.folder, self.task, self.settings, self._clients, self._tests)
        return workers(self.settings, self._trainer.device.type, self._work, self._lock.release)

    def _record(self, event: events.RoundOpened | events.UpdateStored) -> None:
        self.history.apply(event)
        self._commits.add(event)


def _now() -> float:
    return round(time.time(), 3)
