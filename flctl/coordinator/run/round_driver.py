"""One round, from the invitation to the commit: carries out what `flctl.core.round` decides.

`on` turns messages into events of the machine, `_do` carries out its actions. Nothing re-enters:
every event is a step of its own (`flctl.coordinator.run.steps`).
"""

import logging
import math
from collections.abc import Callable
from typing import Any, TypeAlias, assert_never

from flctl.coordinator.run.aggregation import Aggregated, aggregate
from flctl.coordinator.run.ahead import send_ahead
from flctl.coordinator.run.context import Heard, RunContext, RunInput
from flctl.coordinator.run.decisions import (
    commit,
    evaluation_due,
    oddities,
    offer_problem,
    open_round,
    weigh_in,
)
from flctl.coordinator.run.evaluating import Evaluating
from flctl.coordinator.run.intake import Downloads
from flctl.coordinator.run.steps import Steps
from flctl.coordinator.run.storing import StoreOutcome, store, wait_for
from flctl.core import events
from flctl.core import round as machine
from flctl.core.events import Score
from flctl.core.roster import OwnersRefusal
from flctl.core.round import Back, Gone, Phase, Synced, Tick
from flctl.core.stream import AgentsAwaited
from flctl.errors import FlctlError
from flctl.files import Syncing
from flctl.wire.messages import BlobGone, Chunk, Failed, UpdateReady, WorkKey

logger = logging.getLogger(__name__)

RETURN_S = 20.0
"""After a restart, seconds that invited agents have to come back before they count as gone."""

Done: TypeAlias = Callable[[events.RoundCommitted | None, str, bool], None]


class RoundDriver:
    """`resumed`: the round was open when the coordinator stopped. `done(event, "", False)` means
    that the round is committed, `done(None, reason, awaits)` that it cannot go on; `awaits`: until
    more agents are here. After `close`, events are ignored."""

    def __init__(
        self,
        context: RunContext,
        steps: Steps,
        opened: events.RoundOpened,
        done: Done,
        resumed: bool = False,
    ) -> None:
        self._context, self._steps, self._done = context, steps, done
        self.id, self.base, self.key_of = opened.round, opened.base, context.key_of
        need = max(opened.need, context.min_participants)
        self._round = machine.Round(
            self.id,
            self.key_of,
            context.settings,
            machine.AllOrQuorum(need, context.settings.deadline_s),
            opened.invited,
            context.history.accepted,
            opened.attempt,
            context.min_participants,
        )
        self._crew, self._absent = context.crew(), opened.absent
        self._grace_s = RETURN_S if resumed else 0.0
        self._began = context.clock()
        folder, host, clock = context.folder, context.host, context.clock
        spool, before = folder.make_spool(self.id), folder.spool_path(self.id - 1)
        spares = sorted(before.glob("*.safetensors"))  # of a committed round
        self._downloads = Downloads(spool, host, clock, self._on_transferred, spares)
        self._syncing: list[Syncing] = []
        """One for each batch, and all before it are waited for together."""
        self._updates: dict[str, events.UpdateStored] = {}
        self._missing: tuple[str, ...] = ()
        self._made: Aggregated | None = None
        self._evaluating: Evaluating | None = None
        self._score: Score | None = None
        self._closed = False
        self.committing = False
        """Its commit is being written to the journal, and counts whatever happens meanwhile."""

    def begin(self) -> None:
        """Raises FlctlError when the disk fails."""
        context, seats = self._context, self._round.seats
        context.serve(self.base, context.folder.model_path(self.id - 1))
        here = frozenset(agent for agent in seats if context.is_here(agent))
        self._feed(machine.Begin(here, self._grace_s))

    def close(self) -> None:
        """End the round's transfers and evaluation."""
        self._closed = True
        self._downloads.close()
        if self._evaluating is not None:
            self._evaluating.close()

    # For people --------------------------------------------------------------------------

    @property
    def between_attempts(self) -> bool:
        return self._round.phase is Phase.BACKOFF

    def status(self, now: float) -> dict[str, Any]:
        asked = self._round.out if self.between_attempts else self._round.waiting
        return {
            "phase": self._round.phase.value,
            "waiting_for": sorted(asked),
            "why": self._away(now),
            "accepted": sorted(self._round.stored),
            "time_left_s": round(self._round.time_left(now), 1),
        }

    def standings(self) -> dict[str, str]:
        return {agent: seat.standing.value for agent, seat in self._round.seats.items()}

    def news(self, now: float) -> object:
        """State whose change is worth an event."""
        return self._away(now), self._round.stuck

    def waiting(self, now: float) -> AgentsAwaited | None:
        """The event that names absent agents the round waits for; None if there are none."""
        if not (missing := self._away(now)):
            return None
        ready = tuple(sorted(self._round.stored | self._round.waiting))
        need, left_s = self._round.need, round(self._round.time_left(now), 1)
        return AgentsAwaited(
            round=self.id, ready=ready, needed=need, missing=missing, left_s=left_s
        )

    def _away(self, now: float) -> str:
        """Agents that are needed but away, and why, in words."""
        return self._crew.why_not(self._round.away, now) if self._round.short else ""

    # What comes in -----------------------------------------------------------------------

    def on(self, event: RunInput) -> None:
        match event:
            case Heard(agent, UpdateReady() as offer):
                self._feed(machine.Offered(agent, offer))
            case Heard(agent, Chunk() as chunk, payload) if payload is not None:
                self._downloads.on_chunk(agent, chunk, payload)
            case Heard(agent, BlobGone(blob=blob)):
                if self._downloads.forget(agent, blob):
                    why = "it lost its update before it was fetched"
                    self._feed(machine.CannotDeliver(agent, why))
            case Heard(agent, Failed(what="train") as failed) if failed.key == self.key_of(agent):
                self._on_failed(agent, failed)
            case Back(agent) | Gone(agent):
                self._downloads.suspend(agent)  # it offers again what it still has
                self._feed(event)
            case Tick():
                self._downloads.on_time(self._context.clock())
                self._feed(event)
        if self._evaluating is not None:
            self._evaluating.on(event)

    def _on_transferred(self, agent: str, why: str) -> None:
        """All bytes are here, or `why` they will not come."""
        if why:
            self._reject(agent, why)
            self._feed(machine.Unusable(agent, why))
        else:
            self._feed(machine.BytesComplete(agent))

    def _on_failed(self, agent: str, failed: Failed) -> None:
        by_owner = failed.kind == "owner"
        text = f"{'its owner does not allow it' if by_owner else failed.kind}: {failed.message}"
        if by_owner:
            again_s = math.inf if failed.again_s is None else failed.again_s
            member = self._context.host.roster.member(agent)
            member.refusal = OwnersRefusal(self._context.run, text, self._context.clock() + again_s)
            member.note = f"run {self._context.run}: {text}"
        self._feed(machine.CannotDeliver(agent, text, by_owner))

    def _feed(self, event: machine.Event) -> None:
        """Give the machine an event, in a step of its own."""
        self._steps.do(lambda: self._step(event))

    def _step(self, event: machine.Event) -> None:
        if not self._closed:
            for action in self._round.on(event, self._context.clock()):
                if not self._closed:
                    self._do(action)

    # What is done ------------------------------------------------------------------------

    def _do(self, action: machine.Action) -> None:  # noqa: PLR0912
        context = self._context
        match action:
            case machine.Invite(agent):
                context.host.tell(agent, context.order(agent))
            case machine.Tell(agent, message):
                context.host.tell(agent, message)
            case machine.Pull(agent, offer):
                member = context.host.roster.member(agent)
                declared = member.most.get((context.settings.dataset, context.settings.task), 0)
                if why := offer_problem(offer, declared, context.history.size, context.settings):
                    self._on_transferred(agent, why)
                else:
                    self._downloads.pull(agent, offer)
            case machine.Store(agents):
                self._store(agents)
            case machine.Sync(agents):
                self._when_synced("store an update", Synced(agents))
            case machine.Look():
                self._feed(machine.Looked(self._crew.pool(context.clock())))
            case machine.Fail(attempt, reason):
                self._attempt_failed(attempt, reason)
            case machine.Retry(attempt, drawn):
                again = open_round(context.folder, context.history, drawn, attempt, context.now())
                context.record([again], sync=False)
                self._absent = drawn.absent
            case machine.Aggregate():
                self._aggregate(action)
            case machine.Measure():
                self._measure()
            case machine.Write():
                self._write()
            case machine.End(reason, missing, awaits):
                if awaits:
                    why = self._crew.why_not({*missing}, context.clock())
                    reason = f"round {self.id}: {reason} ({why})"
                self._done(None, reason, awaits)
            case _:
                assert_never(action)

    def _store(self, agents: tuple[str, ...]) -> None:
        context, batch = self._context, self._downloads.take(agents)
        first = not self._syncing

        def work() -> StoreOutcome:
            folder, asked = context.folder, context.settings
            return store(folder, context.journal, self.id, asked, batch, first, context.now)

        def stored(outcome: StoreOutcome) -> None:
            if outcome.syncing is not None:
                self._syncing.append(outcome.syncing)
            for agent, why in outcome.unusable.items():
                self._reject(agent, why)
            agents = tuple(update.agent for update in outcome.stored)
            self._feed(machine.Stored(agents, outcome.unusable, outcome.syncing is None))

        def done(outcome: StoreOutcome | None, error: BaseException | None) -> None:
            if outcome is not None:
                context.note(outcome.stored)  # they are in the journal, even if the round is over
            self._outcome("store an update", stored)(outcome, error)

        context.disk.submit(work, done)

    def _when_synced(self, doing: str, event: machine.Event) -> None:
        begun = [*self._syncing]
        # Not on the disk's thread, which stores the next batch meanwhile.
        synced = self._outcome(doing, lambda _: self._feed(event))
        self._context.thinking.submit(lambda: wait_for(begun), synced)

    def _reject(self, agent: str, reason: str) -> None:
        self._warn(agent, "update rejected", reason)
        now = self._context.now()
        event = events.UpdateRejected(at=now, round=self.id, agent=agent, reason=reason)
        self._context.record([event], sync=False)

    def _attempt_failed(self, attempt: int, reason: str) -> None:
        logger.warning("round=%d attempt=%d failed: %s", self.id, attempt, reason)
        now = self._context.now()
        event = events.AttemptFailed(at=now, round=self.id, attempt=attempt, reason=reason)
        self._context.record([event])

    def _warn(self, agent: str, what: str, why: str) -> None:
        """Log it, within the agent's rate limit, and note it in the agent's status."""
        host, text = self._context.host, "round=%d agent=%s %s: %s"
        host.gate.warning(logger, agent, text, self.id, agent, what, why)
        host.roster.member(agent).note = f"round {self.id}: {why}"

    def _aggregate(self, closing: machine.Aggregate) -> None:
        context, self._missing = self._context, closing.missing
        self._downloads.close()
        accepted = context.history.accepted
        self._updates = {agent: accepted[agent] for agent in closing.participants}
        examples = weigh_in(self._updates)
        for agent, what, why in oddities(self._updates, context.history):
            self._warn(agent, what, why)

        def work() -> Aggregated:
            return aggregate(context.folder, self.id, examples, context.settings)

        def aggregated(made: Aggregated) -> None:
            self._made = made
            self._syncing += [made.syncing] if made.syncing is not None else []
            self._when_synced("aggregate", machine.Reached(Phase.AGGREGATED))
            send_ahead(context, made, self._updates)

        context.disk.submit(work, self._outcome("aggregate", aggregated))

    def _measure(self) -> None:
        assert self._made is not None
        if not evaluation_due(self._context.history, self._context.settings, self._updates):
            self._feed(machine.Reached(Phase.EVALUATED))
            return
        key = WorkKey(run=self._context.run, version=self.id, base=self._made.model)

        def measured(score: Score | None) -> None:
            self._evaluating, self._score = None, score
            self._feed(machine.Reached(Phase.EVALUATED))

        done = self._outcome("evaluate", measured)
        self._evaluating = Evaluating(self._context, key, self._made, self._updates, done)
        self._evaluating.begin()

    def _write(self) -> None:
        context, made = self._context, self._made
        assert made is not None
        seconds = context.clock() - self._began
        missing = {*self._missing, *self._absent}
        event = commit(
            context.history, self._updates, made, self._score, missing, seconds, context.now()
        )

        def committed(_: object) -> None:
            self.committing = False
            self._feed(machine.Reached(Phase.COMMITTED))
            self._steps.do(lambda: self._done(event, "", False))

        self.committing = True
        done = self._outcome("commit", committed)
        context.disk.submit(lambda: context.journal.append([event]), done)

    def _outcome(
        self, doing: str, then: Callable[[Any], None]
    ) -> Callable[[Any, BaseException | None], None]:
        """Callback for background work: its result goes to `then`, its failure pauses the run."""

        def done(result: Any, error: BaseException | None) -> None:
            if self._closed:
                return
            if error is None:
                then(result)
                return
            self.committing = False
            if not isinstance(error, FlctlError):
                logger.error("round=%d could not %s", self.id, doing, exc_info=error)
            self._done(None, f"round {self.id} could not {doing}: {error}", False)

        return done
