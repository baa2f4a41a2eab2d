"""A run that is paused until enough of its agents are here."""

from collections.abc import Callable
from typing import Any

from flctl.coordinator.run.context import Fleet
from flctl.coordinator.run.gathering import Gathering
from flctl.coordinator.store.folder import RunFolder
from flctl.coordinator.store.journal import Journal
from flctl.core.history import History, RunStopped


class Awaiting:
    """Knows when the run can go on, and writes nothing before: a coordinator that is started
    again finds the run as it is, and waits again. Raises FlctlError where it cannot be read."""

    def __init__(
        self,
        folder: RunFolder,
        history: History,
        fleet: Fleet,
        clock: Callable[[], float],
        min_participants: int,
    ) -> None:
        self.folder, self._fleet, self._clock = folder, fleet, clock
        self._history = history
        self._settings = folder.settings(history)
        assert history.started is not None
        self._gathering = Gathering(
            self._settings,
            history.started.task_digest,
            fleet.roster,
            fleet.trainers,
            clock(),
            first=True,
            run=folder.name,
            min_participants=min_participants,
            accepted=history.accepted,
            patient=True,
        )

    def is_over(self) -> bool:
        """Enough agents are here."""
        return self._gathering.look(self._clock()) is not None

    def status(self) -> dict[str, Any]:
        """As that of a run in progress."""
        self._gathering.look(self._clock())
        return {
            "run": self.folder.name,
            "round": self._history.round,
            "rounds": self._settings.rounds,
            "phase": "paused until enough agents are here",
            "waiting_for": self._gathering.missing(),
            "why": self._gathering.why_not(),
        }

    def stop(self, at: float, reason: str) -> None:
        """End the wait; the run can be resumed. Raises StateError."""
        lock = self.folder.lock()
        try:
            journal = Journal(self.folder.journal_path)
            try:
                stopped = RunStopped(at=at, reason=reason)
                journal.append([stopped])
            finally:
                journal.close()
        finally:
            lock.release()
        for told in journal.told(stopped):
            self._fleet.publish(told)
