"""What the parts of a run share: its records, and the coordinator around it."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from flctl.coordinator.background import Background
from flctl.coordinator.run.crew import Crew
from flctl.coordinator.run.evaluator import Evaluator
from flctl.coordinator.store.folder import RunFolder
from flctl.coordinator.store.journal import Journal
from flctl.core.history import AnyEvent, History, RoundOpened, RunStarted
from flctl.core.roster import Roster
from flctl.core.round import Draw
from flctl.core.stream import AnyLive, Published
from flctl.errors import StateError
from flctl.settings import RunSettings
from flctl.transport.gate import Gate
from flctl.wire.messages import Digest, Message


class Fleet(Protocol):
    """What a run needs of the coordinator."""

    @property
    def roster(self) -> Roster: ...

    @property
    def gate(self) -> Gate:
        """For every line in the log that an agent can cause."""

    def tell(self, agent: str, message: Message) -> bool:
        """Send to an agent; False when it is not connected."""

    def enrolled(self) -> list[str]:
        """Names of all agents that have a key."""

    def trainers(self) -> list[str]:
        """Those of them that are not enrolled to evaluate only."""

    def serve(self, digest: Digest, path: Path) -> None:
        """Let agents fetch the blob from this file from now on."""

    def publish(self, told: Published) -> None:
        """For whoever watches the run."""


@dataclass(frozen=True)
class RunContext:
    folder: RunFolder
    settings: RunSettings
    history: History
    journal: Journal
    fleet: Fleet
    disk: Background
    """For all that is written: one thing after another."""
    thinking: Background
    """For what takes long and writes nothing."""
    evaluator: Evaluator
    clock: Callable[[], float]
    """Monotonic seconds."""
    wall_clock: Callable[[], float] = time.time
    min_participants: int = 1
    """Of a committed round, whatever the run's quorum; the coordinator's own configuration."""

    @property
    def run(self) -> str:
        return self.folder.name

    @property
    def started(self) -> RunStarted:
        if self.history.started is None:
            raise StateError(f"{self.folder.journal_path}: the run never started")
        return self.history.started

    @property
    def model_size(self) -> int:
        """Of the newest model, in bytes."""
        return self.history.rounds[-1].size if self.history.rounds else self.started.size

    def crew(self) -> Crew:
        fleet = self.fleet
        return Crew(self.settings, self.started.task_digest, fleet.roster, fleet.trainers, self.run)

    def opened(self, drawn: Draw, attempt: int) -> RoundOpened:
        """An attempt of the next round, of these. Raises StateError where the disk has no room."""
        history = self.history
        self.folder.room_for(self.model_size, len(drawn.invited) - len(history.accepted))
        return RoundOpened(
            at=self.now(),
            round=history.round + 1,
            attempt=attempt,
            base=history.base,
            invited=drawn.invited,
            need=drawn.need,
            absent=drawn.absent,
        )

    def now(self) -> float:
        """Seconds since 1970, for the records."""
        return round(self.wall_clock(), 3)

    def is_here(self, agent: str) -> bool:
        """Ready, and not cordoned."""
        return self.fleet.roster.is_free(agent)

    def record(self, events: Sequence[AnyEvent], sync: bool = True) -> None:
        """Into the journal, the history, and to whoever watches. Raises StateError."""
        self.journal.append(events, sync)
        self.note(events)

    def note(self, events: Sequence[AnyEvent]) -> None:
        """What is in the journal already."""
        for event in events:
            self.history.apply(event)
        self.tell(events)

    def tell(self, events: Sequence[AnyEvent]) -> None:
        """Whoever watches, what is in journal and history already."""
        for event in events:
            for told in self.journal.told(event):
                self.fleet.publish(told)

    def publish(self, event: AnyLive) -> None:
        """What stands in no journal."""
        self.fleet.publish(Published(self.run, event))
