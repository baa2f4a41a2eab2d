"""What has happened in a run: the events of its journal, and the state they add up to.

The journal is the only truth about a run. `History.apply` is the whole rule of how a
restarted coordinator knows where it was.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct

from flctl.core.metrics import LOSS, USUAL, label
from flctl.core.randomness import Seeding
from flctl.errors import StateError
from flctl.settings import SCHEMA
from flctl.wire.messages import (
    VALIDATION,
    Claim,
    Digest,
    Measures,
    Metric,
    Metrics,
    Natural,
    RunId,
)

State = Literal["running", "paused", "finished", "failed", "stopped"]
Kind = Literal["fleet", "local", "virtual"]
RoundId = Annotated[int, Meta(ge=0)]


class Event(Struct, frozen=True, kw_only=True, tag_field="event"):
    @property
    def word(self) -> str:
        """Its tag, by which the journal and JSON call it."""
        return str(self.__struct_config__.tag)


class Dated(Event, frozen=True, kw_only=True):
    """Base; `at` is seconds since 1970 by this machine's clock, for people to read."""

    at: float


class RunStarted(Dated, frozen=True, tag="started"):
    schema: int
    run: RunId
    kind: Kind
    model: Digest
    size: Natural
    task_digest: Digest
    version: str
    machine: str
    """Processor type and torch build: a resume elsewhere is not reproducible."""
    settings: Digest | None = None
    """Of run.toml, which stays as it is; older journals do not say."""
    frozen: Digest | None = None
    private: Digest | None = None
    """Of the model's other groups of tensors (`Model` of the wire); `model` is the shared one."""
    measures: Measures = Measures(metrics=USUAL, primary=LOSS.name, classes=0)
    """What the task's models are measured by; older journals do not say."""


class RoundOpened(Dated, frozen=True, tag="opened"):
    round: RoundId
    attempt: int
    base: Digest
    invited: tuple[str, ...]
    need: int
    """Updates that the quorum asks for."""
    absent: tuple[str, ...] = ()
    """Agents that the quorum counts, and that were not here to be invited."""


class UpdateStored(
    Event, Claim, frozen=True, kw_only=True, forbid_unknown_fields=False, tag="update"
):
    """An update is in the spool, checked and durable."""

    at: float
    round: RoundId
    agent: str
    blob: Digest
    size: Natural
    version: Natural = 0
    """Of the model that it starts from."""
    sequence: Natural = 0
    """The agent's own number of it; runs of schema 1 do not say."""


class UpdateRejected(Dated, frozen=True, tag="rejected"):
    round: RoundId
    agent: str
    reason: str


class AttemptFailed(Dated, frozen=True, tag="attempt"):
    """An attempt of a round has failed."""

    round: RoundId
    attempt: int
    reason: str


class Participant(Claim, frozen=True, forbid_unknown_fields=False):
    """What its update was; one that is not compressed is as large as the round's model."""

    sequence: Natural = 0
    bytes_up: Natural = 0

    @classmethod
    def of(cls, update: UpdateStored) -> "Participant":
        claim = {name: getattr(update, name) for name in Claim.__struct_fields__}
        return cls(**claim, sequence=update.sequence, bytes_up=update.size)


class Score(Metrics, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=False):
    """How good the model of a round is."""

    source: str
    """Who evaluated: "coordinator" or "agents"."""
    part: str = "test"
    """Which part of the data this is."""
    beside: dict[str, Metrics] = msgspec.field(default_factory=dict)
    """Other parts, or other agents, by name."""
    validation: Metrics | None = None
    """What the best round is chosen by; None where it was not measured."""
    validated_by: str = "coordinator"
    """Who measured that."""
    chosen_on: str = VALIDATION
    """The part; version 0.1 chose by one for testing."""
    primary: Metric = LOSS

    @property
    def chosen(self) -> float | None:
        """The figure that the best round is chosen by."""
        return None if self.validation is None else self.validation.values.get(self.primary.name)

    @property
    def rule(self) -> str:
        """What makes a round the best one, in words."""
        how = "least" if self.primary.lower else "highest"
        return f"{how} {label(self.primary.name)} on {self.chosen_on}"


class RoundCommitted(Dated, frozen=True, tag="round"):
    """A round is committed: its model is on disk and counts."""

    round: RoundId
    attempt: int
    model: Digest
    size: Natural
    seconds: float
    participants: dict[str, Participant]
    missing: tuple[str, ...] = ()
    metrics: Score | None = None
    server_state: dict[str, Digest] = {}
    """What the strategy keeps from round to round, by name: files beside the model."""

    def for_log(self) -> str:
        score = self.metrics
        values = score.values.items() if score else ()
        figures = "".join(f" {name}={value:.4f}" for name, value in values)
        took = f"took_s={self.seconds:.2f}"
        return f"round={self.round} committed agents={len(self.participants)} {took}{figures}"


class RoundsWithdrawn(Dated, frozen=True, tag="withdrawn"):
    """The rounds after `round` do not count any more: what they made is damaged."""

    round: RoundId
    reason: str


class RunPaused(Dated, frozen=True, tag="paused"):
    reason: str
    awaits: bool = False
    """Too few agents are here: the run goes on by itself when enough are."""


class RunResumed(Dated, frozen=True, tag="resumed"):
    reproducible: bool = True
    changed: dict[str, str | int | float] = {}
    """Settings that are others from here on."""


class RunFinished(Dated, frozen=True, tag="finished"):
    reason: str = ""


class RunFailed(Dated, frozen=True, tag="failed"):
    reason: str


class RunStopped(Dated, frozen=True, tag="stopped"):
    reason: str = ""


AnyEvent: TypeAlias = (
    RunStarted
    | RoundOpened
    | UpdateStored
    | UpdateRejected
    | AttemptFailed
    | RoundCommitted
    | RoundsWithdrawn
    | RunPaused
    | RunResumed
    | RunFinished
    | RunFailed
    | RunStopped
)


_ENDED: dict[type[Event], State] = {
    RunPaused: "paused",
    RunFinished: "finished",
    RunFailed: "failed",
    RunStopped: "stopped",
}


def best_round(scores: Mapping[int, Score | None]) -> int | None:
    """The best of these rounds by the task's primary metric, the earlier of two equals; None when
    no round was measured to be chosen.

    The only rule: for the model that is kept, exported, drawn and shown.
    """
    worth = {
        round_id: score.chosen * (1 if score.primary.lower else -1)
        for round_id, score in scores.items()
        if score is not None and score.chosen is not None
    }
    return min(worth, key=lambda round_id: (worth[round_id], round_id), default=None)


class History:
    """The state of a run, from its events in order.

    A `lean` one keeps of the rounds before the last only what going on needs: with 300 agents
    a round is 100 kB, of which 5 stay.
    """

    def __init__(self, lean: bool = False) -> None:
        self._lean = lean
        self.incomplete = False
        """The last round lacks what a lean history leaves out of rounds before the last, because
        those after it were withdrawn; `complete` puts it back."""
        self.started: RunStarted | None = None
        self.state: State = "running"
        self.reason = ""
        self.awaits = False
        """It is paused until enough agents are here."""
        self.rounds: list[RoundCommitted] = []
        self.opened: RoundOpened | None = None
        self.accepted: dict[str, UpdateStored] = {}
        self.positions: dict[str, int] = {}
        """Batches each agent has consumed in committed rounds …"""
        self.updates: dict[str, int] = {}
        """… and its updates in them."""
        self.weights: dict[str, int] = {}
        """Examples that each agent has claimed in its last committed round."""
        self._consumed: list[bytes] = []
        """For each of `rounds`, as JSON, the batches of each of its participants."""
        self._exhausted: dict[str, int] = {}
        """Agents that have seen all of their data, and the round in which they had."""
        self.last_rejected: dict[str, str] = {}
        self.reproducible = True
        self.changed: dict[str, str | int | float] = {}
        """Settings that the run did not begin with."""
        self.updated_at = 0.0

    @classmethod
    def of(cls, events: Iterable[AnyEvent]) -> "History":
        """What they add up to. Raises StateError."""
        history = cls()
        for event in events:
            history.apply(event)
        return history

    @property
    def made_by(self) -> str:
        """The older flctl whose run cannot be gone on with; empty for one of today's schema."""
        started = self.started
        if started is None or started.schema == SCHEMA:
            return ""
        return f"flctl {started.version} (schema {started.schema})"

    @property
    def round(self) -> int:
        """The last committed round; 0 before the first."""
        return self.rounds[-1].round if self.rounds else 0

    @property
    def base(self) -> Digest:
        """The newest model that counts."""
        return self.model_of(self.round)

    def model_of(self, round_id: int) -> Digest:
        """After that committed round; 0: the one that the run began with."""
        if round_id:
            return self.rounds[round_id - 1].model
        if self.started is None:
            raise StateError("the journal of the run does not begin with its start")
        return self.started.model

    @property
    def exhausted(self) -> set[str]:
        """Agents that have seen all of their data."""
        return set(self._exhausted)

    @property
    def best(self) -> RoundCommitted | None:
        """The best of the committed rounds."""
        best = best_round({event.round: event.metrics for event in self.rounds})
        return None if best is None else self.rounds[best - 1]

    @property
    def alone(self) -> str:
        """What to say of rounds whose model is one agent's update; empty without any."""
        single: dict[int, str] = {}
        for round_id, consumed in enumerate(self._consumed, start=1):
            agents = list(msgspec.json.decode(consumed, type=dict[str, int]))
            if len(agents) == 1:
                single[round_id] = agents[0]
        if not single:
            return ""
        names = sorted(set(single.values()))
        which = "every round is" if len(single) == len(self._consumed) else (
            f"{len(single)} of {len(self._consumed)} rounds, the first of them round "
            f"{min(single)}, are each"
        )  # fmt: skip
        who = f", {names[0]}" if len(names) == 1 else ""
        return f"{which} the update of a single agent{who}: no other took part"

    @property
    def data_used(self) -> str:
        """Who has seen all of its data, as the reason for an end; empty when nobody has."""
        return f"all data used: {', '.join(sorted(self.exhausted))}" if self.exhausted else ""

    def seeding(self, agent: str, seed: int) -> Seeding:
        """Of the agent's update in the next round, whichever attempt of it."""
        count, position = self.updates.get(agent, 0), self.positions.get(agent, 0)
        return Seeding(seed, agent, self.round, count + 1, position)

    def apply(self, event: AnyEvent) -> None:
        """Raises StateError when the event cannot follow what was before."""
        self.updated_at = event.at
        match event:
            case RunStarted():
                self.started = event
            case RoundOpened():
                self._expect(event.round == self.round + 1 and event.base == self.base, event)
                if self.opened is None or self.opened.round != event.round:
                    self.accepted = {}
                self.opened = event
            case UpdateStored():
                self._expect(self.opened is not None and event.round == self.opened.round, event)
                self.accepted[event.agent] = event
            case UpdateRejected():
                self.last_rejected[event.agent] = event.reason
            case RoundCommitted():
                self._expect(event.round == self.round + 1, event)
                self._commit(event)
            case RoundsWithdrawn():
                self._expect(event.round < self.round, event)
                self._withdraw(event.round)
            case RunResumed():
                self.state, self.reason, self.awaits = "running", "", False
                self.reproducible = self.reproducible and event.reproducible
                self.changed |= event.changed
            case RunPaused() | RunFinished() | RunFailed() | RunStopped():
                self.state, self.reason = _ENDED[type(event)], event.reason
                self.awaits = isinstance(event, RunPaused) and event.awaits
            case AttemptFailed():
                pass

    def complete(self, event: RoundCommitted) -> None:
        """`event` is the last round, whole."""
        self.rounds[-1] = event
        self.incomplete = False

    def _commit(self, event: RoundCommitted) -> None:
        if self._lean and self.rounds:
            self.rounds[-1] = _lean(self.rounds[-1])
        self.rounds.append(event)
        self.incomplete = False
        batches = {agent: part.batches for agent, part in event.participants.items()}
        self._consumed.append(msgspec.json.encode(batches))
        for agent, part in event.participants.items():
            self.positions[agent] = self.positions.get(agent, 0) + part.batches
            self.updates[agent] = self.updates.get(agent, 0) + 1
            self.weights[agent] = part.examples
            update = self.accepted.get(agent)
            if update is not None and update.exhausted:
                self._exhausted.setdefault(agent, event.round)
        self.opened = None
        self.accepted = {}

    def _withdraw(self, last: int) -> None:
        for consumed in self._consumed[last:]:
            for agent, batches in msgspec.json.decode(consumed, type=dict[str, int]).items():
                self.positions[agent] -= batches
                self.updates[agent] -= 1
        del self.rounds[last:], self._consumed[last:]
        self.incomplete = self._lean and bool(self.rounds)
        self._exhausted = {agent: r for agent, r in self._exhausted.items() if r <= last}
        self.opened = None
        self.accepted = {}

    def _expect(self, condition: bool, event: Any) -> None:
        if not condition:
            raise StateError(
                f"the journal says '{event.word}' of round {event.round} "
                f"after round {self.round}: it is damaged or from another run"
            )


_NONE: dict[str, Any] = {}
"""One for all rounds: an empty dict of its own takes 64 bytes."""


def _lean(event: RoundCommitted) -> RoundCommitted:
    """Without its participants and the details of its score."""
    score = event.metrics
    if score is not None:
        score = msgspec.structs.replace(score, counts=_NONE, beside=_NONE)
    return msgspec.structs.replace(event, participants=_NONE, missing=(), metrics=score)
