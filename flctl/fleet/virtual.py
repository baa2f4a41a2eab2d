"""Virtual clients: a whole run in one process, without sockets.

The same task, local training, average and journal as a fleet's, so the same seed gives
the same model. Read `VirtualRun.run` from top to bottom.
"""

import contextlib
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flctl.coordinator.run.aggregation import Aggregated, aggregate
from flctl.coordinator.run.decisions import commit, evaluation_due, finish, open_round, weigh_in
from flctl.coordinator.run.scoring import parts_to_ask_for, scored
from flctl.coordinator.store.folder import RunFolder
from flctl.coordinator.store.journal import Journal
from flctl.coordinator.store.resume import expect_resumable, start_run, take_up
from flctl.core import events
from flctl.core.events import Score
from flctl.core.history import History
from flctl.core.round import Pool, draw
from flctl.core.stream import AnyLive, BatchTrained, Published, RunBegun
from flctl.errors import FlctlError, StateError
from flctl.fleet.clients import Clients, Trainer, first_model
from flctl.learning.examples import Examples
from flctl.learning.reading import Reading
from flctl.learning.source import evaluation_parts
from flctl.learning.task import task_of
from flctl.settings import changed
from flctl.wire.messages import Sums
from flctl.worker.jobs import for_testing

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
    ) -> None:
        self.folder, self._publish, self._between = folder, publish, between
        with contextlib.ExitStack() as undo:
            self._lock = folder.lock()
            undo.callback(self._lock.release)
            self.history: History = folder.history(lean=True)  # no other process can resume it now
            expect_resumable(folder, self.history)
            self.settings = changed(folder.settings(self.history), changes or {}, "the changes")
            self._changes = changes
            self._journal = Journal(folder.journal_path)
            undo.callback(self._journal.close)
            self.task = task_of(self.settings)
            self._trainer = Trainer(folder, self.task, self.settings)
            self._clients = Clients(self.task, self.settings)
            self._tests = self._test_data()
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
        first = first_model(given, where)
        try:
            folder = start_run(state, first, "virtual", _now())
        finally:
            os.close(first.fd)
        return cls(folder, publish, between)

    def run(self) -> History:
        """All rounds that are left; what goes wrong pauses the run. Raises UsageError when
        there is none."""
        with contextlib.ExitStack() as stack:
            stack.callback(self._lock.release)
            stack.callback(self._journal.close)
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
        self._tell(
            RunBegun(
                run=self.folder.name,
                round=self.history.round,
                rounds=self.settings.rounds,
                task=self.settings.task,
                agents=self._clients.names,
            )
        )
        for event in noted:
            self._tell(event)
        try:
            self.folder.mend(self.history, self.settings.keep_rounds)
            while not (finished := finish(self.history, self.settings, _now())):
                self._round(self.history.round + 1)
        except (FlctlError, OSError) as error:
            logger.info("run=%s paused: %s", self.folder.name, error)
            logger.debug("run=%s paused", self.folder.name, exc_info=error)
            return events.RunPaused(at=_now(), reason=str(error))
        return finished

    def _end(self, event: events.AnyEvent) -> None:
        with contextlib.suppress(StateError):  # a full disk must not hide the reason
            self.folder.sync(self.history)
            self._journal.append([event])
        if isinstance(event, events.RunFinished):
            self.folder.forget_residuals()
        self.history.apply(event)
        self._tell(event)

    def _round(self, round_id: int) -> None:
        """Invite, train, aggregate, evaluate, commit."""
        began = time.monotonic()
        self._clients.refresh()
        opened, accepted = self.history.opened, self.history.accepted
        if opened is None or not (accepted or self._clients.training.keys() & {*opened.invited}):
            opened = self._open(round_id)
        for agent in opened.invited:
            if agent not in self.history.accepted and agent in self._clients.training:
                self._between()
                self._train(agent, opened)
        updates = self.history.accepted
        made = aggregate(self.folder, round_id, weigh_in(updates), self.settings)
        due = evaluation_due(self.history, self.settings, updates)
        score = self._evaluate(made) if due else None
        missing = set(self._clients.names) - self._clients.training.keys()
        seconds = time.monotonic() - began
        committed = commit(self.history, updates, made, score, missing, seconds, _now())
        self._record(committed)
        logger.info("%s head=%s", committed.for_log(), self._journal.head)
        self.folder.settle(committed, self.history, self.settings.keep_rounds)

    def _open(self, round_id: int) -> events.RoundOpened:
        names = frozenset(self._clients.training)
        drawn = draw(self.settings, round_id, Pool(names, names, len(names)))
        opened = open_round(self.folder, self.history, drawn, 1, _now())
        self._record(opened)
        return opened

    def _train(self, agent: str, opened: events.RoundOpened) -> None:
        """One client's part of a round; its update goes into the spool like any agent's."""

        def progress(step: int, steps: int, loss: float) -> None:
            self._tell(
                BatchTrained(round=opened.round, agent=agent, step=step, steps=steps, loss=loss)
            )

        seeding = self.history.seeding(agent, self.settings.seed)
        examples = self._clients.training[agent]
        update = self._trainer.train(examples, opened.base, seeding, on_step=progress)
        self._record(update)
        logger.info(
            "round=%d agent=%s trained examples=%d batches=%d loss=%.4f took_s=%.1f",
            update.round,
            agent,
            update.examples,
            update.batches,
            update.loss,
            update.seconds,
        )

    def _evaluate(self, made: Aggregated) -> Score | None:
        how, found = self.settings.evaluate, {}

        def measure(parts: dict[str, Examples]) -> dict[str, Sums]:
            return {name: self._trainer.evaluate(made.path, part) for name, part in parts.items()}

        if how != "agents":
            found = measure(self._tests.get())
        answers = {part: measure(self._clients.own(part)) for part in parts_to_ask_for(how, found)}
        return scored(found, answers, self.task.measures)

    def _test_data(self) -> Reading[dict[str, Examples]]:
        task, source = self.task, for_testing(self.settings)
        path = None if source.path is None else Path(source.path)
        return Reading(path, lambda: evaluation_parts(task, source))

    def _record(self, event: events.AnyEvent) -> None:
        self._journal.append([event], sync=isinstance(event, events.RoundCommitted))
        self.history.apply(event)
        self._tell(event)

    def _tell(self, event: events.AnyEvent | AnyLive) -> None:
        """One that stands in no journal, or that a full disk did not take, has no number."""
        journaled = list(self._journal.told(event)) if isinstance(event, events.Journaled) else []
        for told in journaled or [Published(self.folder.name, event)]:
            self._publish(told)


def _now() -> float:
    return round(time.time(), 3)
