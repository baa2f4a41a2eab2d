"""Events of a run's journal, the only authority on what happened in it."""

from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct

from flctl.core.metrics import DEFAULT_METRICS, LOSS, label
from flctl.settings import LocalTraining
from flctl.wire.messages import (
    VALIDATION,
    Begun,
    Claim,
    Digest,
    MeasuredPart,
    Measures,
    Metric,
    Metrics,
    Natural,
    RunId,
)

State = Literal["running", "paused", "finished", "failed", "stopped"]
RunKind = Literal["fleet", "local", "virtual"]
RoundId = Annotated[int, Meta(ge=0)]


class Journaled(Struct, frozen=True, kw_only=True, tag_field="event"):
    @property
    def word(self) -> str:
        """Its tag, by which the journal and JSON call it."""
        return str(self.__struct_config__.tag)


class Dated(Journaled, frozen=True, kw_only=True):
    """Base; `at` is seconds since 1970 by this machine's clock, for people to read."""

    at: float


class RunStarted(Dated, frozen=True, tag="started"):
    schema: int
    run: RunId
    kind: RunKind
    model: Digest
    size: Natural
    task_digest: Digest
    version: str
    machine: str
    """Processor type and torch build: a resume elsewhere is not reproducible."""
    settings: Digest | None = None
    """Digest of run.toml, which never changes; older journals lack it."""
    strategy_digest: Digest | None = None
    frozen: Digest | None = None
    private: Digest | None = None
    """Digests of the model's two other groups of tensors; `model` is the shared one."""
    groups: dict[str, list[str]] = {}
    """Records, patients or the like of each local or virtual agent, where data are divided by
    them."""
    begun: Begun | None = None
    """What it began with, if not with the task's own model."""
    measures: Measures = Measures(metrics=DEFAULT_METRICS, primary=LOSS.name, classes=0)
    """Metrics of the task's models; older journals lack them."""


class RoundOpened(Dated, frozen=True, tag="opened"):
    round: RoundId
    attempt: int
    base: Digest
    invited: tuple[str, ...]
    need: int
    """Updates that the quorum requires."""
    absent: tuple[str, ...] = ()
    """Agents that the quorum counts but that were not here to be invited."""


class UpdateStored(
    Journaled, Claim, frozen=True, kw_only=True, forbid_unknown_fields=False, tag="update"
):
    """An update is in the spool and checked; durable once it is synced."""

    at: float
    round: RoundId
    agent: str
    blob: Digest
    size: Natural
    version: Natural = 0
    """Version of the model that it starts from."""
    sequence: Natural = 0
    """The agent's own number of it; runs of schema 1 lack it."""


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
    """An agent's part in a round; an uncompressed update is as large as the round's model."""

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
    """Part of the data that was measured."""
    beside: dict[str, Metrics] = msgspec.field(default_factory=dict)
    """Other parts, or other agents, by name."""
    own: dict[str, Metrics] = msgspec.field(default_factory=dict)
    """What agents have measured on their own test parts in a run's last round, by name, where
    the coordinator's figures count."""
    validation: Metrics | None = None
    """Metrics that the best round is chosen by; None if not measured."""
    validated_by: str = "coordinator"
    """Who measured `validation`: "coordinator" or "agents"."""
    chosen_on: str = VALIDATION
    """Part of the data that `validation` is about; version 0.1 chose by a test part."""
    primary: Metric = LOSS

    @property
    def by_agent(self) -> dict[str, Metrics]:
        """Figures of each agent on its own data; empty where none has measured."""
        return self.beside if self.source == "agents" else self.own

    @property
    def chosen(self) -> float | None:
        """The figure that the best round is chosen by."""
        return None if self.validation is None else self.validation.values.get(self.primary.name)

    @property
    def rule(self) -> str:
        """Rule by which a round is the best one, in words."""
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
    """Digests of the strategy's state files next to the model, by name."""
    changed_data: tuple[str, ...] = ()
    """Virtual or local agents whose training data are not those of their round before."""

    def for_log(self) -> str:
        score = self.metrics
        values = score.values.items() if score else ()
        figures = "".join(f" {name}={value:.4f}" for name, value in values)
        took = f"took_s={self.seconds:.2f}"
        other = f" changed_data={','.join(self.changed_data)}" if self.changed_data else ""
        agents = len(self.participants)
        return f"round={self.round} committed agents={agents} {took}{figures}{other}"


class RoundsWithdrawn(Dated, frozen=True, tag="withdrawn"):
    """The rounds after `round` no longer count, because their files are damaged."""

    round: RoundId
    reason: str


class PauseOrdered(Dated, frozen=True, tag="pausing"):
    """An operator pauses the run: the open round is the last one until it is resumed."""

    withdrawn: bool = False
    """The run is resumed before that round has ended."""


HELD = "paused by an operator"
"""Reason of a pause that only an operator ends."""


class RunPaused(Dated, frozen=True, tag="paused"):
    reason: str
    awaits: bool = False
    """Too few agents are here; the run resumes by itself once enough are."""


class RunResumed(Dated, frozen=True, tag="resumed"):
    reproducible: bool = True
    changed: dict[str, str | int | float] = {}
    """Settings that change from here on."""
    strategy_digest: Digest | None = None
    """sha256 of the strategy's code, if it is other code than the run began with."""
    task_digest: Digest | None = None
    """The same of the task's code, of a run of virtual agents."""

    @property
    def other_code(self) -> str:
        """Whose code has changed; empty if none has."""
        found = {"strategy": self.strategy_digest, "task": self.task_digest}
        return " and ".join(what for what, digest in found.items() if digest)


class RunFinished(Dated, frozen=True, tag="finished"):
    reason: str = ""
    personalises: bool = False
    """Its agents personalise its best model next."""


class PersonalisingBegan(Dated, frozen=True, tag="personalising"):
    """Agents of a finished run fine-tune one of its models, each for itself."""

    number: Natural
    """Counted from 1."""
    round: RoundId
    model: Digest
    training: LocalTraining
    tensors: tuple[str, ...] = ()
    agents: tuple[str, ...] = ()
    """Those that were named; empty: all of the run that are here."""
    deadline_s: float = 600.0
    wait_s: float = 60.0
    """As in the settings of a run."""


class AgentPersonalised(Dated, frozen=True, tag="personal"):
    """Figures of the run's model and of the agent's own one, by part of its own data."""

    number: Natural
    round: RoundId
    agent: str
    kept: bool
    """Its own model has beaten the run's one on its validation part, and is used by it."""
    epochs: Natural
    shared: dict[MeasuredPart, Metrics]
    own: dict[MeasuredPart, Metrics]
    """Empty unless it is kept."""
    primary: Metric = LOSS
    """The one that decides."""

    def used(self, part: MeasuredPart) -> Metrics | None:
        """Figures of the model that the agent uses from now on."""
        return self.own.get(part) or self.shared.get(part)


class PersonalisingEnded(Dated, frozen=True, tag="personalised"):
    number: Natural
    round: RoundId
    without: dict[str, str] = {}
    """Agents that have not done it, and why."""
    reason: str = ""
    """Why none could be asked, if so."""


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
    | PauseOrdered
    | RunPaused
    | RunResumed
    | RunFinished
    | RunFailed
    | RunStopped
    | PersonalisingBegan
    | AgentPersonalised
    | PersonalisingEnded
)
