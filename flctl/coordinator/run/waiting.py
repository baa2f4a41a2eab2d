"""The last run, paused: until enough of its agents are here, or until an operator resumes it."""

import contextlib
from typing import Any, NamedTuple

from flctl.coordinator.run.context import RunHost
from flctl.coordinator.run.crew import Crew
from flctl.coordinator.run.gathering import Gathering
from flctl.coordinator.store.folder import RunFolder
from flctl.coordinator.store.journal import Journal
from flctl.core.events import HELD, AnyEvent
from flctl.core.history import History


class Awaiting(NamedTuple):
    """Until it continues nothing is written: a restarted coordinator finds it unchanged."""

    folder: RunFolder
    history: History
    rounds: int
    gathering: Gathering | None
    """Of its agents; None: an operator resumes it."""

    @classmethod
    def of(
        cls, folder: RunFolder, history: History, host: RunHost, now: float, least: int
    ) -> "Awaiting":
        """`least`: see Gathering. Raises FlctlError."""
        settings, started, gathering = folder.settings(history), history.started, None
        assert started is not None
        if not history.held:
            crew = Crew(settings, started.task_digest, host.roster, host.trainers, folder.name)
            gathering = Gathering(crew, now, True, least, history.accepted, patient=True)
        return cls(folder, history, settings.rounds, gathering)

    def status(self, now: float) -> dict[str, Any]:
        found = {"run": self.folder.name, "round": self.history.round, "rounds": self.rounds}
        if self.gathering is None:
            why = self.history.reason
            more = {"why": why} if why != HELD else {}
            return {**found, "phase": HELD, "waiting_for": [], "pausing": True, **more}
        self.gathering.look(now)
        phase = "paused until enough agents are here"
        return {**found, "phase": phase, **self.gathering.status(now)}

    def goes_on(self, now: float) -> bool:
        """Whether enough of its agents are here."""
        return self.gathering is not None and self.gathering.look(now) is not None

    def note(self, host: RunHost, *happened: AnyEvent) -> None:
        """Write it into the run's journal, and publish it. Raises StateError."""
        with contextlib.ExitStack() as stack:
            stack.callback(self.folder.lock().release)
            journal = Journal(self.folder.journal_path)
            stack.callback(journal.close)
            journal.append(happened)
        for event in happened:
            self.history.apply(event)
            for told in journal.told(event):
                host.publish(told)
