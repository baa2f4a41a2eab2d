"""State that the parts of a run share: its records, and the coordinator around it."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeAlias

from msgspec import Struct

from flctl.coordinator.background import Background
from flctl.coordinator.run.crew import Crew
from flctl.coordinator.run.evaluator import Evaluator
from flctl.coordinator.store.folder import RunFolder
from flctl.coordinator.store.journal import Journal
from flctl.core.events import AnyEvent, RoundOpened, RunStarted
from flctl.core.history import History
from flctl.core.roster import Roster
from flctl.core.round import Back, Gone, Tick
from flctl.core.stream import AnyLive, Published
from flctl.errors import StateError
from flctl.files import explained
from flctl.settings import RunSettings
from flctl.transport.channel import Frame
from flctl.transport.gate import Gate
from flctl.wire.messages import Coded, Digest, MeasuredPart, Message, Model, Train, WorkKey

logger = logging.getLogger(__name__)


class Heard(Struct, frozen=True):
    """A message from an agent about work."""

    agent: str
    message: Message
    payload: Frame | None = None


RunInput: TypeAlias = Heard | Back | Gone | Tick
"""Events that reach a run."""


class RunHost(Protocol):
    """The parts of the coordinator that a run needs."""

    @property
    def roster(self) -> Roster: ...

    @property
    def gate(self) -> Gate:
        """Limits the log lines that an agent can cause."""

    def tell(self, agent: str, message: Message) -> bool:
        """Send to an agent; False when it is not connected."""

    def enrolled(self) -> list[str]:
        """Names of all agents that have a key."""

    def trainers(self) -> list[str]:
        """Those of them that are not enrolled to evaluate only."""

    def serve(self, digest: Digest, path: Path) -> None:
        """Let agents fetch the blob from this file from now on."""

    def publish(self, told: Published) -> None:
        """Send to all that watch the run."""


@dataclass(frozen=True)
class RunContext:
    folder: RunFolder
    settings: RunSettings
    history: History
    journal: Journal
    host: RunHost
    disk: Background
    """For all writing, in order."""
    thinking: Background
    """For long work that writes nothing."""
    evaluator: Evaluator
    clock: Callable[[], float]
    """Monotonic seconds."""
    wall_clock: Callable[[], float] = time.time
    min_participants: int = 1
    """Fewest updates in a committed round, whatever the run's quorum; set by the coordinator."""
    refused: dict[str, dict[MeasuredPart, int]] = field(default_factory=dict)
    """Parts that an agent's owner did not let be measured, with the agent's declared examples."""

    @property
    def run(self) -> str:
        return self.folder.name

    @property
    def started(self) -> RunStarted:
        if self.history.started is None:
            raise StateError(f"{self.folder.journal_path}: the run never started")
        return self.history.started

    def crew(self) -> Crew:
        host = self.host
        digest, brought = self.started.task_digest, self.started.begun is not None
        return Crew(self.settings, digest, host.roster, host.trainers, self.run, brought)

    def key_of(self, agent: str) -> WorkKey:
        """Key of the update that the next round asks the agent for."""
        history = self.history
        sequence = history.seeding(agent, self.settings.seed).sequence
        return WorkKey(run=self.run, version=history.round, base=history.base, sequence=sequence)

    def order(self, agent: str) -> Train:
        """The order of the next round to the agent."""
        settings, key = self.settings, self.key_of(agent)
        return Train(
            key=key,
            model=self.model(key.base, self.history.size),
            task=settings.task,
            dataset=settings.dataset,
            training=settings.local_training(key.round),
            seed=settings.seed,
            position=self.history.positions.get(agent, 0),
            settings=self.started.settings,
            brought=self.started.begun is not None,
            task_args=settings.task_args,
        )

    def model(self, blob: Digest, size: int) -> Model:
        """The model of a round with all that agents need for it. Raises StateError."""
        frozen, path = None, self.folder.frozen
        if path is not None and self.started.frozen is not None:
            with explained(path, "read the model"):
                frozen = Coded(blob=self.started.frozen, size=path.stat().st_size)
        shared = Coded(blob=blob, size=size)
        return Model(shared=shared, frozen=frozen, private=self.started.private)

    def serve(self, blob: Digest, path: Path) -> None:
        """Let agents fetch a round's model, in the file `path`. Raises StateError."""
        self.host.serve(blob, path)
        if self.started.frozen is not None:
            self.host.serve(self.started.frozen, self.folder.frozen_path)

    def now(self) -> float:
        """Seconds since 1970, for the records."""
        return round(self.wall_clock(), 3)

    def has_to_draw_again(self, opened: RoundOpened) -> bool:
        """Whether the open round asks agents whose key was revoked since, or too few agents for the
        coordinator's present minimum. Others are drawn then, besides those whose update is here."""
        enrolled, accepted = self.host.enrolled(), self.history.accepted
        gone = [a for a in opened.invited if a not in enrolled and a not in accepted]
        if len(opened.invited) < self.min_participants:
            return True
        if gone:
            names = ", ".join(gone)
            logger.warning("round=%d no longer asks %s: not enrolled", opened.round, names)
        return bool(gone)

    def is_here(self, agent: str) -> bool:
        """Ready, and not cordoned."""
        return self.host.roster.is_free(agent)

    def record(self, events: Sequence[AnyEvent], sync: bool = True) -> None:
        """Write to the journal, apply to the history, and publish. Raises StateError."""
        self.journal.append(events, sync)
        self.note(events)

    def note(self, events: Sequence[AnyEvent]) -> None:
        """Apply to the history and publish what is already in the journal."""
        for event in events:
            self.history.apply(event)
        self.tell(events)

    def tell(self, events: Sequence[AnyEvent]) -> None:
        """Publish what is already in journal and history."""
        for event in events:
            for told in self.journal.told(event):
                self.host.publish(told)

    def publish(self, event: AnyLive) -> None:
        """Publish a live event, which is not journaled."""
        self.host.publish(Published(self.run, event))
