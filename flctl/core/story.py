"""State of a run for a viewer, reduced from its events: pure, with the time passed in."""

import math
from dataclasses import dataclass, field

from flctl.core.events import (
    AgentPersonalised,
    AnyEvent,
    AttemptFailed,
    PauseOrdered,
    PersonalisingBegan,
    PersonalisingEnded,
    RoundCommitted,
    RoundOpened,
    RoundsWithdrawn,
    RunResumed,
    Score,
    UpdateRejected,
    UpdateStored,
)
from flctl.core.history import best_round
from flctl.core.stream import (
    ENDS,
    AgentCame,
    AgentFailed,
    AgentLost,
    AgentsAwaited,
    AnyLive,
    BatchTrained,
    Published,
    RunBegun,
)

NEWS = (RoundOpened, UpdateStored, AgentCame, AttemptFailed, RoundCommitted, AgentsAwaited)
"""After these it shows again whether a round waits for agents."""
RECENT = 5
"""Rounds whose mean length the estimate of the time left rests on."""


@dataclass
class Doing:
    """One agent in the round that is open."""

    state: str = "waiting"
    """waiting, training, done, rejected, failed, retrying, lost"""
    step: int = 0
    steps: int = 0
    loss: float | None = None
    examples: int | None = None
    note: str = ""


@dataclass
class RoundLine:
    """A committed round."""

    round: int
    seconds: float
    agents: int
    score: Score | None
    missing: tuple[str, ...] = ()


@dataclass
class Story:
    """Apply every event in order; the fields say how things stand."""

    now: float
    """When watching began, in seconds by a steady clock."""
    run: str = ""
    task: str = ""
    rounds: int = 0
    expected: int = 0
    """Agents that are named for the run; 0: all that are connected."""
    open_round: int = 0
    attempt: int = 1
    agents: dict[str, Doing] = field(default_factory=dict)
    done: list[RoundLine] = field(default_factory=list)
    message: str = ""
    """What the run is waiting for; empty if nothing."""
    waits_until: float | None = None
    """When the wait for agents ends; None while there is none."""
    before: int = 0
    """Number of rounds that were committed before watching began."""
    pausing: bool = False
    """An operator pauses it after the open round."""
    ended: str = ""
    """paused, failed, stopped or finished."""
    personalising: bool = False
    personal: dict[str, AgentPersonalised] = field(default_factory=dict)
    """What became of it, by agent."""
    without: dict[str, str] = field(default_factory=dict)
    """Agents that have not done it, and why."""
    not_personalised: str = ""
    """Why none could be asked, if so."""

    def __post_init__(self) -> None:
        self.began = self.round_began = self.now

    def apply(self, told: Published, now: float) -> None:
        self.now = now
        event = told.event
        if self.waits_until is not None and isinstance(event, NEWS):
            self.message, self.waits_until = "", None
        match event:
            case RunBegun():
                self.run, self.rounds, self.task = event.run, event.rounds, event.task
                self.before = max(self.before, event.round)
                self.expected = len(event.agents)
            case AgentsAwaited():
                self.message = f"waiting for agents: {event.missing or ''}".rstrip(": ")
                self.waits_until = math.inf if event.left_s is None else now + event.left_s
            case RoundOpened():
                self._open(event)
            case BatchTrained():
                self._progress(event)
            case UpdateStored():
                doing = self.agents.setdefault(event.agent, Doing())
                doing.state, doing.loss, doing.examples = "done", event.loss, event.examples
                doing.step = doing.steps = event.batches
            case UpdateRejected() | AgentFailed() | AgentLost() | AgentCame():
                self._trouble(event)
            case AttemptFailed():
                self.message = f"attempt {event.attempt} failed: {event.reason}"
            case RoundCommitted():
                self._commit(event)
            case RoundsWithdrawn():
                self.done = [line for line in self.done if line.round <= event.round]
                self.message = f"{event.reason}; the rounds after round {event.round} are repeated"
            case RunResumed():
                self.pausing = self.pausing and not self.ended
                self.ended = self.message = ""
            case _:
                self._after_rounds(event)

    @property
    def last_round(self) -> int:
        """The last round among the events received; `reached` also counts earlier ones."""
        return self.done[-1].round if self.done else 0

    @property
    def reached(self) -> int:
        return max(self.last_round, self.before)

    @property
    def best(self) -> RoundLine | None:
        best = best_round({line.round: line.score for line in self.done})
        return next((line for line in self.done if line.round == best), None)

    @property
    def trend(self) -> list[float]:
        """Figure of each round that the best one is chosen by."""
        found = (line.score.chosen for line in self.done if line.score is not None)
        return [figure for figure in found if figure is not None]

    def share_done(self) -> float:
        """Share of the whole run, in [0, 1]; the open round counts by its agents' steps."""
        if not self.rounds:
            return 0.0
        parts = [a.step / a.steps if a.steps else 0.0 for a in self.agents.values()]
        within = sum(parts) / len(parts) if parts and self.open_round > self.reached else 0.0
        return min((self.reached + within) / self.rounds, 1.0)

    def time_left(self, now: float) -> float | None:
        """In seconds, from the last rounds; None before the first of them."""
        left = self.rounds - self.reached
        if not self.done or left <= 0 or self.ended or self.waits_until is not None:
            return None
        recent = [line.seconds for line in self.done[-RECENT:]]
        mean = sum(recent) / len(recent)
        this = mean - (now - self.round_began)
        if this <= 0 and left == 1:
            return None  # it is late: nothing is known
        return mean * (left - 1) + max(this, 0.0)

    def _open(self, event: RoundOpened) -> None:
        kept = self.agents if event.round == self.open_round else {}
        self.open_round, self.attempt = event.round, event.attempt
        self.agents = {name: kept.get(name, Doing()) for name in event.invited}
        self.message = ""
        self.round_began = self.now

    def _progress(self, event: BatchTrained) -> None:
        doing = self.agents.setdefault(event.agent, Doing())
        doing.state, doing.note = "training", ""
        doing.step, doing.steps = event.step, event.steps
        doing.loss = doing.loss if event.loss is None else event.loss

    def _after_rounds(self, event: AnyEvent | AnyLive) -> None:
        match event:
            case _ if isinstance(event, ENDS):
                self.ended, self.message = event.word, event.reason
                self.pausing = self.pausing and self.ended == "paused"
            case PauseOrdered():
                self.pausing = not event.withdrawn
            case PersonalisingBegan():
                self.agents, self.ended, self.personalising = {}, "", True
                self.message = f"agents personalise the model of round {event.round}"
            case AgentPersonalised():
                doing = self.agents.setdefault(event.agent, Doing())
                doing.state, doing.step = "done", doing.steps
                doing.note = "keeps its own model" if event.kept else "keeps the run's model"
                self.personal[event.agent] = event
            case PersonalisingEnded():
                self.ended, self.message, self.personalising = "finished", event.reason, False
                self.without, why = dict(event.without), event.reason
                self.not_personalised = why and f"its model was not personalised: {why}"

    def _trouble(self, event: UpdateRejected | AgentFailed | AgentLost | AgentCame) -> None:
        doing = self.agents.get(event.agent)
        if doing is None:
            return
        match event:
            case AgentCame() if doing.state == "lost":
                doing.state, doing.note = "waiting", ""
            case AgentLost() if doing.state != "done":
                doing.state, doing.note = "lost", event.reason
            case AgentFailed() if doing.state == "done":  # its update is there
                doing.note = event.message
            case AgentFailed():
                doing.state = "retrying" if event.retrying else "failed"
                doing.note = f"{event.kind}: {event.message}"
            case UpdateRejected():
                doing.state, doing.note = "rejected", event.reason

    def _commit(self, event: RoundCommitted) -> None:
        if event.round <= self.last_round:
            return
        self.done.append(
            RoundLine(
                event.round, event.seconds, len(event.participants), event.metrics, event.missing
            )
        )
        self.round_began = self.now
