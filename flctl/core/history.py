"""The state of a run, from the events of its journal. A restarted coordinator knows where it was
from `History.apply`, and `take_stock` then takes updates damaged in the spool out of `accepted`.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from flctl.core import events
from flctl.core.metrics import is_defined, why_undefined
from flctl.core.randomness import Seeding
from flctl.errors import StateError
from flctl.settings import SCHEMA
from flctl.wire.messages import Digest

_ENDED: dict[type[events.Journaled], events.State] = {
    events.RunPaused: "paused",
    events.RunFinished: "finished",
    events.RunFailed: "failed",
    events.RunStopped: "stopped",
}


COMPARABLE = 0.95
"""Two rounds are compared if the smaller validation part has this share of the other's examples."""


def best_round(scores: Mapping[int, events.Score | None]) -> int | None:
    """The best of these rounds by the task's primary metric, the earlier of two equals; None when
    no round was measured to be chosen, or none with a figure that is defined. The rounds are in
    order.

    Agents come and go, and their validation data with them: a model looks better when the agent
    with the rare classes is away. So a round on notably fewer examples than the best so far never
    takes its place, and one on notably more always does. The best is either the best so far or
    the round that was committed last, whose model is still there to be kept.

    The only rule: for the model that is kept, exported, drawn and shown.
    """
    best: tuple[int, float, int] | None = None
    for round_id, score in scores.items():
        if score is None or score.validation is None or score.chosen is None:
            continue
        if not is_defined(score.chosen):  # else round 1 would be the best of a run without figures
            continue
        worth, examples = (
            score.chosen * (-1 if score.primary.lower else 1),
            score.validation.examples,
        )
        if best is not None:
            _, least, before = best
            fewer, more = examples < COMPARABLE * before, before < COMPARABLE * examples
            if fewer or not (more or worth > least):
                continue
        best = round_id, worth, examples
    return None if best is None else best[0]


def why_no_best(scores: Iterable[events.Score | None]) -> str:
    """Why none of these rounds is the best."""
    chosen = [score for score in scores if score is not None and score.chosen is not None]
    if not chosen:
        return "there is no validation part"
    return f"on {chosen[-1].chosen_on} {why_undefined(chosen[-1].primary.name)}"


class History:
    """The state of a run, from its events in order.

    With `lean=True`, earlier rounds keep only what is needed to resume: with 300 agents, 5 kB of
    a round's 100.
    """

    def __init__(self, lean: bool = False) -> None:
        self._lean = lean
        self.incomplete = False
        """The last round lacks what a lean history leaves out of rounds before the last, because
        those after it were withdrawn; `complete` puts it back."""
        self.started: events.RunStarted | None = None
        self.state: events.State = "running"
        self.reason = ""
        self.awaits = False
        """It is paused until enough agents are here."""
        self.held = False
        """An operator has paused it: it ends after the open round, or has, until it is resumed."""
        self.rounds: list[events.RoundCommitted] = []
        self.opened: events.RoundOpened | None = None
        self.accepted: dict[str, events.UpdateStored] = {}
        self.positions: dict[str, int] = {}
        """Batches each agent has consumed in committed rounds …"""
        self.updates: dict[str, int] = {}
        """… and its updates in them."""
        self.weights: dict[str, int] = {}
        """Examples that each agent has claimed in its last committed round …"""
        self.data: dict[str, str | None] = {}
        """… and the digest of its training data there."""
        self._consumed: list[bytes] = []
        """For each of `rounds`, as JSON, the batches of each of its participants."""
        self._exhausted: dict[str, int] = {}
        """Agents that have seen all of their data, and the round in which they had."""
        self.last_rejected: dict[str, str] = {}
        self.reproducible = True
        self.changed: dict[str, str | int | float] = {}
        """Settings that the run did not begin with."""
        self.personalises = False
        """Its agents are to personalise its model, and have not begun."""
        self.personalising: events.PersonalisingBegan | None = None
        """Until it has ended."""
        self.personalisings = 0
        """How many have begun."""
        self.personal: dict[str, events.AgentPersonalised] = {}
        """The last of each agent."""
        self.without: dict[str, str] = {}
        """Agents that have not done it when they were asked last, and why."""
        self.updated_at = 0.0

    @classmethod
    def of(cls, happened: Iterable[events.AnyEvent]) -> "History":
        """The history that these events add up to. Raises StateError."""
        history = cls()
        for event in happened:
            history.apply(event)
        return history

    @property
    def waits(self) -> bool:
        """It is paused, for agents or for an operator, and nothing is broken."""
        return self.awaits or (self.held and self.state == "paused")

    @property
    def made_by(self) -> str:
        """The older flctl whose run cannot be continued; empty for today's schema."""
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
        """Digest of the newest model that counts."""
        return self.model_of(self.round)

    @property
    def size(self) -> int:
        """Size of the newest model in bytes."""
        return self.rounds[-1].size if self.rounds else self.started.size if self.started else 0

    def model_of(self, round_id: int) -> Digest:
        """After that committed round; 0: the one that the run began with."""
        if round_id:
            return self.rounds[round_id - 1].model
        if self.started is None:
            raise StateError("the journal does not begin with the start of the run")
        return self.started.model

    @property
    def exhausted(self) -> set[str]:
        """Agents that have seen all of their data."""
        return set(self._exhausted)

    @property
    def best(self) -> events.RoundCommitted | None:
        """The best of the committed rounds."""
        best = best_round({event.round: event.metrics for event in self.rounds})
        return None if best is None else self.rounds[best - 1]

    @property
    def alone(self) -> str:
        """What to say of rounds whose model is one agent's update; empty without any."""
        who = (list(_batches(consumed)) for consumed in self._consumed)
        single = {number: agents[0] for number, agents in enumerate(who, 1) if len(agents) == 1}
        if not single:
            return ""
        names = sorted(set(single.values()))
        which = "every round is" if len(single) == len(self._consumed) else (
            f"{len(single)} of {len(self._consumed)} rounds, the first of them round "
            f"{min(single)}, are each"
        )  # fmt: skip
        name = f", {names[0]}" if len(names) == 1 else ""
        return f"{which} the update of a single agent{name}: no other agent took part"

    @property
    def data_used(self) -> str:
        """Agents that have seen all their data, as the reason for an end; empty if none."""
        return f"all data used: {', '.join(sorted(self.exhausted))}" if self.exhausted else ""

    def seeding(self, agent: str, seed: int) -> Seeding:
        """Seeding of the agent's update in the next round, in any attempt."""
        count, position = self.updates.get(agent, 0), self.positions.get(agent, 0)
        return Seeding(seed, agent, self.round, count + 1, position)

    def apply(self, event: events.AnyEvent) -> None:
        """Raises StateError when the event cannot follow what was before."""
        self.updated_at = event.at
        match event:
            case events.RunStarted():
                self.started = event
            case events.RoundOpened():
                self._expect(event.round == self.round + 1 and event.base == self.base, event)
                if self.opened is None or self.opened.round != event.round:
                    self.accepted = {}
                self.opened = event
            case events.UpdateStored():
                self._expect(self.opened is not None and event.round == self.opened.round, event)
                self.accepted[event.agent] = event
            case events.UpdateRejected():
                self.last_rejected[event.agent] = event.reason
            case events.RoundCommitted():
                self._expect(event.round == self.round + 1, event)
                self._commit(event)
            case events.RoundsWithdrawn():
                self._expect(event.round < self.round, event)
                self._withdraw(event.round)
            case events.PauseOrdered():
                self.held = not event.withdrawn
            case events.RunResumed():
                # A restarted coordinator has not been asked to continue after the round.
                self.held = self.held and self.state == "running"
                self.state, self.reason, self.awaits = "running", "", False
                self.reproducible = self.reproducible and event.reproducible
                self.changed |= event.changed
            case (
                events.RunPaused() | events.RunFinished() | events.RunFailed() | events.RunStopped()
            ):
                self.state, self.reason = _ENDED[type(event)], event.reason
                self.awaits = isinstance(event, events.RunPaused) and event.awaits
                self.held = self.held and isinstance(event, events.RunPaused)
                self.personalises = isinstance(event, events.RunFinished) and event.personalises
            case _:
                self._personalise(event)

    def _personalise(self, event: events.AnyEvent) -> None:
        match event:
            case events.PersonalisingBegan():
                self.personalises, self.personalisings = False, event.number
                self.personalising = event
            case events.AgentPersonalised():
                self.personal[event.agent] = event
                self.without.pop(event.agent, None)
            case events.PersonalisingEnded():
                named = self.personalising is not None and self.personalising.agents
                self.without = {**(self.without if named else {}), **event.without}
                self.personalises, self.personalising = False, None

    def complete(self, event: events.RoundCommitted) -> None:
        """`event` is the last round, whole."""
        self.rounds[-1] = event
        self.incomplete = False

    def _commit(self, event: events.RoundCommitted) -> None:
        if self._lean and self.rounds:
            self.rounds[-1] = _lean(self.rounds[-1])
        self.rounds.append(event)
        self.incomplete = False
        batches = {agent: part.batches for agent, part in event.participants.items()}
        self._consumed.append(msgspec.json.encode(batches))
        for agent, part in event.participants.items():
            self.positions[agent] = self.positions.get(agent, 0) + part.batches
            self.updates[agent] = self.updates.get(agent, 0) + 1
            self.weights[agent], self.data[agent] = part.examples, part.data
            update = self.accepted.get(agent)
            if update is not None and update.exhausted:
                self._exhausted.setdefault(agent, event.round)
        self.reproducible = self.reproducible and not event.changed_data
        self.opened = None
        self.accepted = {}

    def _withdraw(self, last: int) -> None:
        for consumed in self._consumed[last:]:
            for agent, batches in _batches(consumed).items():
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


_batches = msgspec.json.Decoder(dict[str, int]).decode
_NONE: dict[str, Any] = {}
"""One for all rounds: an empty dict of its own takes 64 bytes."""


def _lean(event: events.RoundCommitted) -> events.RoundCommitted:
    """Without its participants and the details of its score."""
    score = event.metrics
    if score is not None:
        chosen = score.validation
        score = msgspec.structs.replace(
            score, counts=_NONE, beside=_NONE, own=_NONE, constant=score.constant or _NONE,
            validation=chosen and msgspec.structs.replace(chosen, counts=_NONE),
        )  # fmt: skip
    return msgspec.structs.replace(event, participants=_NONE, missing=(), metrics=score)
