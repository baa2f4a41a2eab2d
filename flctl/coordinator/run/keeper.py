"""Keeps one run going: starts it, resumes it after a pause or a crash, releases it at its end."""

import contextlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from flctl.coordinator.background import Background
from flctl.coordinator.run.context import RunContext, RunHost
from flctl.coordinator.run.evaluator import Evaluator
from flctl.coordinator.run.personalising import Personalising
from flctl.coordinator.run.run import Run
from flctl.coordinator.run.waiting import Awaiting
from flctl.coordinator.store.folder import RunFolder, all_runs
from flctl.coordinator.store.journal import Journal
from flctl.coordinator.store.models import check_tensors
from flctl.coordinator.store.resume import (
    FirstModel,
    remove_unstarted,
    start_run,
    take_up,
    with_beginning,
)
from flctl.core.events import (
    HELD,
    PauseOrdered,
    PersonalisingEnded,
    RunKind,
    RunPaused,
    RunStopped,
)
from flctl.core.history import History
from flctl.core.personal import as_ordered, begun
from flctl.core.stream import Published
from flctl.errors import FlctlError, RunError, SettingsError, UsageError
from flctl.files import Lock
from flctl.labels import none_chosen
from flctl.settings import RunSettings

logger = logging.getLogger(__name__)


class RunKeeper:
    def __init__(
        self,
        state: Path,
        host: RunHost,
        evaluator: Evaluator,
        disk: Background,
        thinking: Background,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        self.training: Run | Personalising | None = None
        """The run in progress, or what its agents do after it."""
        self.min_participants = 1
        """No round with fewer is committed."""
        self._awaiting: Awaiting | None = None
        """The last run, if it is paused until enough agents are here, or by an operator."""
        self._state, self._host, self._evaluator = state, host, evaluator
        self._thinking, self._clock, self._wall_clock = thinking, clock, wall_clock
        self._context = partial(
            RunContext, host=host, disk=disk, thinking=thinking, evaluator=evaluator,
            clock=clock, wall_clock=wall_clock,
        )  # fmt: skip
        self._lock: Lock | None = None

    def start(
        self,
        given: dict[str, Any],
        where: str,
        kind: RunKind,
        done: Callable[[str | None, BaseException | None], None],
    ) -> None:
        """Begin a new run; `done(name, None)` or `done(None, error)` is called later."""
        self._expect_no_run()

        def made(first: FirstModel | None, error: BaseException | None) -> None:
            if first is None:
                if kind == "fleet" and "unknown strategy '" in str(error):  # of another machine
                    error = SettingsError(f"on the coordinator: {error}")
                done(None, error)
                return
            try:
                self._expect_no_run()
                self._expect_quorum(first.settings)
                self._begin(start_run(self._state, first, kind, self._now()))
            except (FlctlError, OSError) as broken:
                done(None, broken)
                return
            finally:
                os.close(first.fd)
            assert self.training is not None
            done(self.training.run, None)

        full = with_beginning(self._state, given, where)
        self._thinking.submit(lambda: self._evaluator.initialise(full, where), made)

    def resume(self, folder: RunFolder, changes: Mapping[str, Any] | None = None) -> None:
        """Resume a run that stopped, paused, or lost its coordinator, with these changes to its
        settings; without changes, also one that is about to pause, or that goes on already. Raises
        FlctlError."""
        run = self.training
        if isinstance(run, Run) and run.run == folder.name and run.open and not changes:
            run.hold(False)
            return
        self._expect_no_run()
        self._begin(folder, changes)

    def personalise(
        self,
        folder: RunFolder,
        changes: Mapping[str, Any] | None = None,
        agents: Sequence[str] = (),
        round_id: int | None = None,
        again: bool = False,
    ) -> int:
        """Have the agents of a finished run personalise the model of a round; the number of this
        order. `changes` are to the run's settings. `again`: continue what was interrupted.

        Raises FlctlError.
        """
        self._expect_no_run()
        with contextlib.ExitStack() as undo:
            lock = folder.lock()
            undo.callback(lock.release)
            history = folder.history(lean=True)
            settings = as_ordered(folder.settings(history), changes or {})
            began = (again and history.personalising) or begun(
                history, settings, self._now(), agents, round_id
            )
            check_tensors(folder.kept_model(began.round, history), began.tensors)
            journal = Journal(folder.journal_path)
            context = self._context(folder, settings, history, journal)
            undo.pop_all()
        self._lock, self.training = lock, Personalising(context, began)
        self.training.begin()
        return began.number

    def status(self) -> dict[str, Any] | None:
        """Status of the run in progress, or of the one that waits for agents."""
        if self.training is not None:
            return self.training.status()
        if (waiting := self._awaiting) is None:
            return None
        return waiting.status(self._clock())

    def on_time(self) -> None:
        """Resume the run that waits for agents, once they are here."""
        waiting = self._awaiting
        if waiting is None or self.training or not waiting.goes_on(self._clock()):
            return
        logger.info("run=%s goes on: enough agents are here", waiting.folder.name)
        try:
            self._begin(waiting.folder)
        except (FlctlError, OSError) as error:
            self._awaiting = None  # an operator has to look at it
            logger.error("run=%s cannot go on: %s", waiting.folder.name, error)

    def stopped(self, folder: RunFolder) -> bool:
        """Whether the run is stopped: now, if it is the one that waits. Raises StateError."""
        if (waiting := self._waiting_as(folder.name)) is None:
            driven = self.training is not None and self.training.run == folder.name
            return not driven and folder.history(lean=True).state == "stopped"
        waiting.note(self._host, RunStopped(at=self._now(), reason="stopped by an operator"))
        self._awaiting = None
        return True

    def pause(self, run: str) -> dict[str, Any]:
        """By an operator's order, after the round that is open; the answer says which one that is.
        Raises FlctlError."""
        if (waiting := self._waiting_as(run)) is not None:
            at = self._now()
            if waiting.gathering is not None:
                waiting.note(self._host, PauseOrdered(at=at), RunPaused(at=at, reason=HELD))
                self._awaiting = waiting._replace(gathering=None)
            return {"run": run, "round": None}
        training = self.training
        if training is None or training.run != run:
            raise UsageError(f"run {run} is not in progress")
        if not isinstance(training, Run):
            raise UsageError(f"run {run} has no more rounds: its agents personalise its model")
        training.hold(True)
        if not training.history.held:
            raise RunError(f"run {run} could not be paused: {training.history.reason}")
        return {"run": run, "round": training.round.id if training.round is not None else None}

    def _waiting_as(self, run: str) -> Awaiting | None:
        """The run that waits, if it is this one."""
        waiting = self._awaiting
        return waiting if waiting and waiting.folder.name == run and not self.training else None

    def _await(self, folder: RunFolder, history: History) -> None:
        now, least = self._clock(), self.min_participants
        try:
            self._awaiting = Awaiting.of(folder, history, self._host, now, least)
        except (FlctlError, OSError) as error:
            logger.error("run=%s cannot be waited for: %s", folder.name, error)

    def resume_interrupted(self, kind: RunKind = "fleet") -> None:
        """After a start: resume the run that was in progress, if there is one; or wait for the
        agents of the last run, if it is paused because they were missing."""
        remove_unstarted(self._state)
        last: tuple[RunFolder, History] | None = None
        personal: RunFolder | None = None
        for folder in reversed(list(all_runs(self._state))):
            try:
                history = folder.history(lean=True)
            except FlctlError as error:
                logger.error("run=%s cannot be read: %s", folder.name, error)
                continue
            started = history.started
            if history.made_by or started is None or started.kind != kind:
                continue  # a run of another kind of fleet, or one that can only be read
            last = last or (folder, history)
            if history.personalises or history.personalising is not None:
                personal = personal or folder
            if history.state == "running":
                logger.info("run=%s was interrupted in round %d", folder.name, history.round + 1)
                try:
                    self._begin(folder)
                except (FlctlError, OSError) as error:
                    logger.error("run=%s cannot go on: %s", folder.name, error)
                return
        if last is not None and last[1].waits:
            self._await(*last)
        if personal is not None:
            self._personalise_next(personal)

    def _personalise_next(self, folder: RunFolder) -> None:
        """As the run's settings say, or an order that was interrupted."""
        try:
            self.personalise(folder, again=True)
        except (FlctlError, OSError) as error:
            logger.error("run=%s cannot be personalised: %s", folder.name, error)
            ended = PersonalisingEnded(at=self._now(), number=0, round=0, reason=str(error))
            with contextlib.suppress(FlctlError, OSError), contextlib.ExitStack() as stack:
                journal = Journal(folder.journal_path)
                stack.callback(journal.close)
                journal.append([ended])
            self._host.publish(Published(folder.name, ended))

    def _expect_no_run(self) -> None:
        if self.training is not None:
            run = self.training.run
            raise RunError(
                f"run {run} is in progress: wait for its end, or stop it first: "
                f"flctl runs stop {run}"
            )

    def _expect_quorum(self, settings: RunSettings) -> None:
        labels, every = self._host.roster.labels, self._host.enrolled()
        enrolled = len(labels.chosen(settings.where, every))
        if settings.where and every and not enrolled:
            raise UsageError(none_chosen(settings.where, map(labels.of, every)))
        agents, least = len(settings.agents) or enrolled, self.min_participants
        if least > 1 and agents < (fleet := settings.fleet_for(least)):
            which = "named" if settings.agents else "chosen" if settings.where else "enrolled"
            part = f", a fraction of {settings.fraction:g} takes {fleet}" if fleet > least else ""
            raise UsageError(
                f"this coordinator commits no round of fewer than {least} participants "
                f"(--min-participants); agents {which}: {agents}{part}"
            )
        quorum = settings.quorum or 0
        if not settings.agents and quorum > max(1, enrolled):
            which = "chosen" if settings.where else "enrolled"
            raise UsageError(f"a quorum of {int(quorum)} cannot be met; agents {which}: {enrolled}")

    def _begin(self, folder: RunFolder, changes: Mapping[str, Any] | None = None) -> None:
        with contextlib.ExitStack() as undo:
            lock = folder.lock()
            undo.callback(lock.release)
            # Read again, now under the lock: another process may have driven the run since it was
            # listed. Journal reads the file once more, for its chain and to cut off a torn line.
            history = folder.history(lean=True)
            journal = Journal(folder.journal_path)
            undo.callback(journal.close)
            draw_again = history.awaits or bool(changes)  # take_up clears `awaits`
            noted = take_up(folder, history, journal, self._now(), changes)
            settings, least = folder.settings(history), self.min_participants
            context = self._context(folder, settings, history, journal, min_participants=least)
            undo.pop_all()
        self._lock, self._awaiting = lock, None
        self.training = run = Run(context)
        run.begin(noted, draw_again)

    def _now(self) -> float:
        return round(self._wall_clock(), 3)

    def give_up(self, error: Exception) -> None:
        """End the run because background work for it failed."""
        if self.training is not None:
            self.training.give_up(error)
        else:
            logger.error("%s", error)

    def release_ended(self) -> None:
        """Release the run if it has ended."""
        if self.training is not None and self.training.ended:
            ended = self.training
            self._release()
            if ended.history.waits:
                self._await(ended.folder, ended.history)
            elif ended.history.personalises:
                self._personalise_next(ended.folder)

    def abandon(self) -> None:
        """Leave a run in progress so that it continues at the next start."""
        if self.training is not None and not self.training.ended:
            self.training.abandon()
        self._release()

    def _release(self) -> None:
        self.training = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None
