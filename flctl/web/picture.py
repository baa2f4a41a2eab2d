"""A run as the page shows it, reduced from its events: pure, with the time passed in.

Of each round it keeps a few numbers, so that a run of hundreds of agents and rounds stays small;
whole is only the last round.
"""

from collections.abc import Iterable

from msgspec import Struct
from msgspec.structs import replace

from flctl.core import stream
from flctl.core.events import (
    AnyEvent,
    AttemptFailed,
    RoundCommitted,
    RoundOpened,
    RoundsWithdrawn,
    RunStarted,
    Score,
    UpdateRejected,
)
from flctl.core.history import best_round
from flctl.core.metrics import computed
from flctl.core.story import Story
from flctl.core.stream import Published
from flctl.records.tables import training_loss
from flctl.wire.messages import VALIDATION, Measures, Metric, Metrics

MISHAPS = 50
"""Failures and absences that are kept, the newest."""


class RoundFigures(Struct, frozen=True):
    """What is kept of a committed round."""

    round: int
    at: float
    seconds: float
    attempt: int
    agents: int
    missing: tuple[str, ...]
    bytes_up: int
    training_loss: float | None
    part: str
    values: dict[str, float]
    """On `part` of the data, by metric."""
    validation: dict[str, float]
    mean: float | None
    worst: float | None
    """Mean and worst agent, by the primary metric, where agents have measured."""
    score: Score | None
    """Without its tables: what the best round is chosen by."""


class Mishap(Struct, frozen=True):
    at: float | None
    """None: of a live event, which has no time."""
    round: int
    agent: str
    text: str
    count: int = 1
    """How often, the last time in this round."""


class RunPicture:
    """`apply` every event in order."""

    def __init__(self, name: str, now: float) -> None:
        self.name = name
        self.story = Story(now)
        self.started: RunStarted | None = None
        self.rounds: list[RoundFigures] = []
        self.last: RoundCommitted | None = None
        self.mishaps: dict[tuple[str, str], Mishap] = {}
        """By agent and text; what happened last is the last one."""
        self.sent: dict[str, int] = {}
        """Bytes of the updates that each agent has sent in committed rounds."""
        self.awaited: stream.AgentsAwaited | None = None
        """What it waits for, until something happens."""
        self.need: int | None = None
        """Updates that the open round requires."""
        self.absent: tuple[str, ...] = ()

    @classmethod
    def of(cls, name: str, happened: Iterable[AnyEvent]) -> "RunPicture":
        """From the journal of a run that nothing happens in."""
        picture = cls(name, 0.0)
        for event in happened:
            picture.apply(Published(name, event), 0.0)
        return picture

    @property
    def measures(self) -> Measures:
        return self.started.measures if self.started else _NOTHING

    @property
    def best(self) -> int | None:
        return best_round({each.round: each.score for each in self.rounds})

    @property
    def bytes_up(self) -> int:
        return sum(each.bytes_up for each in self.rounds)

    def figures_of(self, round_id: int | None) -> RoundFigures | None:
        return next((each for each in self.rounds if each.round == round_id), None)

    def apply(self, told: Published, now: float) -> None:
        event = told.event
        if not isinstance(event, stream.AgentsAwaited | stream.BatchTrained):
            self.awaited = None
        match event:
            case RunStarted():
                self.started = event
            case RoundCommitted():
                self._commit(event)
                event = replace(event, metrics=self.rounds[-1].score, participants={})
            case RoundsWithdrawn():
                self.rounds = [each for each in self.rounds if each.round <= event.round]
                self.last = None
            case RoundOpened():
                self.need, self.absent = event.need, event.absent
            case stream.AgentsAwaited():
                self.awaited = event
            case _:
                self._note(event)
        self.story.apply(replace(told, event=event), now)

    def _note(self, event: AnyEvent | stream.AnyLive) -> None:
        match event:
            case UpdateRejected():
                self._mishap(event.at, event.round, event.agent, f"rejected: {event.reason}")
            case AttemptFailed():
                text = f"attempt {event.attempt} failed: {event.reason}"
                self._mishap(event.at, event.round, "", text)
            case stream.AgentFailed():
                again = "; it tries again" if event.retrying else ""
                self._mishap(
                    None, event.round, event.agent, f"{event.kind}: {event.message}{again}"
                )
            case stream.AgentLost():
                self._mishap(None, self.story.open_round, event.agent, f"lost: {event.reason}")

    def _mishap(self, at: float | None, round_id: int, agent: str, text: str) -> None:
        before = self.mishaps.pop((agent, text), None)
        count = 1 if before is None else before.count + 1
        self.mishaps[agent, text] = Mishap(at, round_id, agent, text, count)
        if len(self.mishaps) > MISHAPS:
            del self.mishaps[next(iter(self.mishaps))]

    def _commit(self, event: RoundCommitted) -> None:
        if self.rounds and event.round <= self.rounds[-1].round:
            return
        score, people = event.metrics, event.participants
        measured = [
            each.values[self.measures.primary]
            for each in (score.by_agent.values() if score else ())
            if self.measures.primary in computed(each.values)
        ]
        lower = self.measures.chooses.lower
        self.last = event
        self.rounds.append(
            RoundFigures(
                round=event.round,
                at=event.at,
                seconds=event.seconds,
                attempt=event.attempt,
                agents=len(people),
                missing=event.missing,
                bytes_up=sum(part.bytes_up for part in people.values()),
                training_loss=training_loss(people),
                part=score.part if score else "",
                values=computed(score.values) if score else {},
                validation=_validation(score),
                mean=sum(measured) / len(measured) if measured else None,
                worst=(max if lower else min)(measured, default=None),
                score=_slim(score),
            )
        )
        for agent, part in people.items():
            self.sent[agent] = self.sent.get(agent, 0) + part.bytes_up
        for agent in event.missing:
            self._mishap(
                event.at, event.round, agent, "late or missing: the round closed without it"
            )


_NOTHING = Measures(metrics=(Metric("loss", lower=True),), primary="loss", classes=0)


def _validation(score: Score | None) -> dict[str, float]:
    if score is None or score.validation is None or score.chosen_on != VALIDATION:
        return {}
    return computed(score.validation.values)


def _slim(score: Score | None) -> Score | None:
    """What the best round is chosen by, and the figures: without tables and agents."""
    if score is None:
        return None
    chosen: Metrics | None = score.validation
    return replace(
        score,
        counts={},
        beside={},
        own={},
        validation=chosen and replace(chosen, counts={}, constant={}),
    )
