"""One round, from the invitation to the commit: carries out what `flctl.core.round` decides.

Read `on` and `_do`: what comes in becomes an event of the machine, what the machine says is done
here. Nothing re-enters: every event is a step of its own (`flctl.coordinator.run.steps`).
"""

import logging
import math
from collections.abc import Callable
from typing import TypeAlias, TypeVar, assert_never

from msgspec import Struct

from flctl.coordinator.background import Background
from flctl.coordinator.run.aggregation import Aggregated, aggregate
from flctl.coordinator.run.claims import jumps
from flctl.coordinator.run.context import RunContext
from flctl.coordinator.run.decisions import commit, measures, weigh_in
from flctl.coordinator.run.evaluating import Evaluating
from flctl.coordinator.run.intake import Collection
from flctl.coordinator.run.steps import Steps
from flctl.coordinator.run.storing import Outcome, store
from flctl.core import history as happened
from flctl.core import round as rounds
from flctl.core.history import Score
from flctl.core.roster import Refusal
from flctl.core.round import Back, Gone, Phase, Tick
from flctl.core.stream import AgentsAwaited
from flctl.errors import FlctlError
from flctl.files import Syncing
from flctl.transport.channel import Frame
from flctl.wire.messages import (
    BlobGone,
    Chunk,
    Coded,
    Evaluated,
    Failed,
    Message,
    Model,
    Train,
    UpdateReady,
    WorkKey,
)

logger = logging.getLogger(__name__)
T = TypeVar("T")

HEADER_SLACK = 1 << 20
"""How much larger than the model an update may be: another writer's header."""
RETURN_S = 20.0
"""After a restart, how long invited agents may take to come back before they count as gone."""
TELL_S = 5.0
"""A round reports the agents that it waits for at most this often."""


class Heard(Struct, frozen=True):
    """A message of an agent, about work."""

    agent: str
    message: Message
    payload: Frame | None = None


Incoming: TypeAlias = Heard | Back | Gone | Tick
Done: TypeAlias = Callable[[happened.RoundCommitted | None, str, bool], None]


class RoundDriver:
    """`resumed`: it was open when the coordinator stopped.

    `done(event, "", False)` is called when the round is committed, `done(None, reason, awaits)`
    when it cannot go on; `awaits`: before more agents are here. What comes after `close` is
    ignored."""

    def __init__(
        self,
        context: RunContext,
        steps: Steps,
        opened: happened.RoundOpened,
        done: Done,
        resumed: bool = False,
    ) -> None:
        self._context, self._steps, self._done = context, steps, done
        self.id, self.base = opened.round, opened.base
        need = max(opened.need, context.min_participants)
        self._round = rounds.Round(
            self.id,
            self.key_of,
            context.settings,
            rounds.AllOrQuorum(need, context.settings.deadline_s),
            opened.invited,
            context.history.accepted,
            opened.attempt,
            context.min_participants,
        )
        self._crew, self._absent = context.crew(), opened.absent
        self._grace_s = RETURN_S if resumed else 0.0
        self._began = context.clock()
        self._collection = Collection(
            context.folder.make_spool(opened.round), context.fleet, context.clock, self._on_ended
        )
        self._syncing: Syncing | None = None
        """Of the last batch that was stored."""
        self._updates: dict[str, happened.UpdateStored] = {}
        self._missing: tuple[str, ...] = ()
        self._made: Aggregated | None = None
        self._evaluating: Evaluating | None = None
        self._score: Score | None = None
        self._told: tuple[tuple[str, bool], float] = (("", False), -math.inf)
        """For whom the round was said to wait last and whether for nothing else, and when."""
        self._closed = False
        self.committing = False
        """Its commit is on its way to the journal: it will stand there, whatever happens now."""

    def key_of(self, agent: str) -> WorkKey:
        """Of the update that it is asked for."""
        seeding = self._context.history.seeding(agent, self._context.settings.seed)
        return WorkKey(
            run=self._context.run, version=self.id - 1, base=self.base, sequence=seeding.sequence
        )

    def begin(self) -> None:
        """Raises FlctlError when the disk fails."""
        context, seats = self._context, self._round.seats
        context.fleet.serve(self.base, context.folder.model_path(self.id - 1))
        here = frozenset(agent for agent in seats if context.is_here(agent))
        self._tell(rounds.Begin(here, self._grace_s))

    def close(self) -> None:
        """Nothing more is wanted of this round."""
        self._closed = True
        self._collection.close()
        if self._evaluating is not None:
            self._evaluating.close()

    # For people --------------------------------------------------------------------------

    def status(self) -> dict[str, object]:
        now, paused = self._context.clock(), self._round.phase is Phase.PAUSED
        return {
            "phase": self._round.phase.value,
            "waiting_for": sorted(self._round.out if paused else self._round.waiting),
            "why": self._away(),
            "accepted": sorted(self._round.arrived),
            "time_left_s": round(self._round.time_left(now), 1),
        }

    def standings(self) -> dict[str, str]:
        return {agent: seat.standing.value for agent, seat in self._round.seats.items()}

    def waiting(self) -> AgentsAwaited | None:
        """The event that says for whom the round waits, though they are away; None: for none."""
        if not (missing := self._away()):
            return None
        left_s = round(self._round.time_left(self._context.clock()), 1)
        ready = tuple(sorted(self._round.arrived | self._round.waiting))
        need = self._round.need
        return AgentsAwaited(
            round=self.id, ready=ready, needed=need, missing=missing, left_s=left_s
        )

    def _away(self) -> str:
        """Who is away and needed, and why, in words."""
        if not self._round.short:
            return ""
        return self._crew.why_not(self._round.away, self._context.clock())

    def _tell_waiting(self) -> None:
        now, (told, at) = self._context.clock(), self._told
        news = self._away(), self._round.stuck
        if news != told and now >= at + TELL_S and (event := self.waiting()):
            self._told = news, now
            self._context.publish(event)
        elif not news[0]:
            self._told = news, at

    # What comes in -----------------------------------------------------------------------

    def on(self, event: Incoming) -> None:
        match event:
            case Heard(agent, UpdateReady() as offer):
                self._tell(rounds.Offered(agent, offer))
            case Heard(agent, Chunk() as chunk, payload) if payload is not None:
                self._collection.on_chunk(agent, chunk, payload)
            case Heard(agent, BlobGone(blob=blob)):
                if self._collection.forget(agent, blob):
                    why = "it lost its update before it was fetched"
                    self._tell(rounds.CannotDeliver(agent, why))
            case Heard(agent, Failed(what="train") as failed) if failed.key == self.key_of(agent):
                self._on_failed(agent, failed)
            case Heard(agent, Failed(what="evaluate") as failed) if self._evaluating is not None:
                self._evaluating.on_failed(agent, failed.key)
            case Heard(agent, Evaluated() as answer) if self._evaluating is not None:
                self._evaluating.on_answer(agent, answer)
            case Back(agent) | Gone(agent):
                self._collection.suspend(agent)  # it offers again what it still has
                self._tell(event)
                if self._evaluating is not None:
                    isback = isinstance(event, Back)
                    (self._evaluating.on_here if isback else self._evaluating.on_gone)(agent)
            case Tick():
                self._collection.on_time(self._context.clock())
                self._tell(event)
                self._steps.do(self._tell_waiting)
                if self._evaluating is not None:
                    self._evaluating.on_time()

    def _on_ended(self, agent: str, why: str) -> None:
        """A transfer has."""
        if why:
            self._reject(agent, why)
            self._tell(rounds.Unusable(agent, why))
        else:
            self._tell(rounds.BytesComplete(agent))

    def _on_failed(self, agent: str, failed: Failed) -> None:
        by_owner = failed.kind == "owner"
        text = f"{'its owner does not allow it' if by_owner else failed.kind}: {failed.message}"
        if by_owner:
            again_s = math.inf if failed.again_s is None else failed.again_s
            member = self._context.fleet.roster.member(agent)
            member.refusal = Refusal(self._context.run, text, self._context.clock() + again_s)
            member.note = f"run {self._context.run}: {text}"
        self._tell(rounds.CannotDeliver(agent, text, by_owner))

    def _tell(self, event: rounds.Event) -> None:
        """The machine, as a step of its own."""
        self._steps.do(lambda: self._step(event))

    def _step(self, event: rounds.Event) -> None:
        if not self._closed:
            for action in self._round.on(event, self._context.clock()):
                if not self._closed:
                    self._do(action)

    # What is done ------------------------------------------------------------------------

    def _do(self, action: rounds.Action) -> None:  # noqa: PLR0912
        context = self._context
        match action:
            case rounds.Invite(agent):
                context.fleet.tell(agent, self._order(agent))
            case rounds.Tell(agent, message):
                context.fleet.tell(agent, message)
            case rounds.Pull(agent, offer):
                if wrong := self._wrong_with(agent, offer):
                    self._on_ended(agent, wrong)
                else:
                    self._collection.pull(agent, offer)
            case rounds.Store(agents, last):
                self._store(agents, last)
            case rounds.Sync(agents):
                synced = rounds.Synced(agents)
                self._later(
                    context.disk, self._sync, lambda _: self._tell(synced), "store an update"
                )
            case rounds.Look():
                self._tell(rounds.Seen(self._crew.pool(context.clock())))
            case rounds.Fail(attempt, reason):
                self._attempt_failed(attempt, reason)
            case rounds.Retry(attempt, drawn):
                context.record([context.opened(drawn, attempt)], sync=False)
                self._absent = drawn.absent
            case rounds.Aggregate():
                self._aggregate(action)
            case rounds.Measure():
                self._measure()
            case rounds.Write():
                self._write()
            case rounds.End(reason, missing, awaits):
                if awaits:
                    why = self._crew.why_not({*missing}, context.clock())
                    reason = f"round {self.id}: {reason} ({why})"
                self._done(None, reason, awaits)
            case _:
                assert_never(action)

    def _order(self, agent: str) -> Train:
        context = self._context
        return Train(
            key=self.key_of(agent),
            model=Model(shared=Coded(blob=self.base, size=context.model_size)),
            task=context.settings.task,
            dataset=context.settings.dataset,
            training=context.settings.local_training(self.id),
            seed=context.settings.seed,
            position=context.history.positions.get(agent, 0),
            settings=context.started.settings,
        )

    def _wrong_with(self, agent: str, offer: UpdateReady) -> str | None:
        """Why the update is not even fetched; None when it is."""
        settings, size = self._context.settings, self._context.model_size
        member = self._context.fleet.roster.member(agent)
        declared = member.most.get((settings.dataset, settings.task), 0)
        if offer.claim.examples > declared:
            return f"it claims {offer.claim.examples} examples, {declared} were declared"
        asked = settings.compression
        if offer.update.codec != asked or offer.update.base not in (None, offer.key.base):
            return f"it is compressed as {offer.update.codec!r:.40}, the run asks for {asked}"
        if offer.update.size > size + HEADER_SLACK:
            return f"it offers {offer.update.size} bytes, the model has {size}"
        if not 0 <= offer.claim.compression_error < math.inf:
            return "the error of its compression is not a finite number of at least 0"
        if not (math.isfinite(offer.claim.loss) and math.isfinite(offer.claim.last_loss)):
            return "its training loss is not a finite number; begin a new run with a lower lr"
        return None

    def _store(self, agents: tuple[str, ...], last: bool) -> None:
        context, batch = self._context, self._collection.take(agents)

        def work() -> Outcome:
            folder, asked = context.folder, context.settings
            return store(folder, context.journal, self.id, asked, batch, last, context.now)

        def then(outcome: Outcome | None, error: BaseException | None) -> None:
            if outcome is not None:
                context.note(outcome.stored)  # the journal has them, whatever became of the round
            if self._closed:
                return
            if outcome is None:
                self._fail(error, "store an update")
                return
            self._syncing = outcome.syncing
            for agent, why in outcome.unusable.items():
                self._reject(agent, why)
            stored = tuple(update.agent for update in outcome.stored)
            self._tell(rounds.Stored(stored, outcome.unusable, outcome.syncing is None))

        context.disk.submit(work, then)

    def _sync(self) -> None:
        """What was stored last, on the disk's thread."""
        if self._syncing is not None:
            self._syncing.wait()
            self._context.journal.sync()

    def _reject(self, agent: str, reason: str) -> None:
        context, round_id = self._context, self.id
        text = "round=%d agent=%s update rejected: %s"
        context.fleet.gate.warning(logger, agent, text, round_id, agent, reason)
        context.fleet.roster.member(agent).note = f"round {round_id}: {reason}"
        event = happened.UpdateRejected(
            at=context.now(), round=round_id, agent=agent, reason=reason
        )
        context.record([event], sync=False)

    def _attempt_failed(self, attempt: int, reason: str) -> None:
        context, round_id = self._context, self.id
        logger.warning("round=%d attempt=%d failed: %s", round_id, attempt, reason)
        event = happened.AttemptFailed(
            at=context.now(), round=round_id, attempt=attempt, reason=reason
        )
        context.record([event])

    def _aggregate(self, closing: rounds.Aggregate) -> None:
        context, self._missing = self._context, closing.missing
        self._collection.close()
        accepted = context.history.accepted
        self._updates = {agent: accepted[agent] for agent in closing.participants}
        examples = weigh_in(self._updates)
        for agent, why in jumps(examples, context.history).items():
            text = "round=%d agent=%s %s"
            context.fleet.gate.warning(logger, agent, text, self.id, agent, why)
            context.fleet.roster.member(agent).note = f"round {self.id}: {why}"

        def work() -> Aggregated:
            made = aggregate(context.folder, self.id, examples, context.settings)
            self._sync()
            return made

        def then(made: Aggregated) -> None:
            self._made = made
            self._tell(rounds.Reached(Phase.AGGREGATED))

        self._later(context.disk, work, then, "aggregate")

    def _measure(self) -> None:
        assert self._made is not None
        if not measures(self._context.history, self._context.settings, self._updates):
            self._tell(rounds.Reached(Phase.EVALUATED))
            return
        key = WorkKey(run=self._context.run, version=self.id, base=self._made.model)

        def done(score: Score | None, error: BaseException | None) -> None:
            self._evaluating, self._score = None, score
            if error is not None:
                self._fail(error, "evaluate")
            else:
                self._tell(rounds.Reached(Phase.EVALUATED))

        self._evaluating = Evaluating(self._context, key, self._made, done)
        self._evaluating.begin()

    def _write(self) -> None:
        context, made = self._context, self._made
        assert made is not None
        seconds = context.clock() - self._began
        missing = {*self._missing, *self._absent}
        event = commit(
            context.history, self._updates, made, self._score, missing, seconds, context.now()
        )

        def work() -> None:
            context.journal.append([event])

        def done(_: None, error: BaseException | None) -> None:
            self.committing = False
            if self._closed:
                return
            if error is not None:
                self._fail(error, "commit")
                return
            self._tell(rounds.Reached(Phase.COMMITTED))
            self._steps.do(lambda: self._done(event, "", False))

        self.committing = True
        context.disk.submit(work, done)

    def _later(
        self,
        background: Background,
        work: Callable[[], T],
        then: Callable[[T], None],
        doing: str,
    ) -> None:
        def done(result: T, error: BaseException | None) -> None:
            if self._closed:
                return
            if error is not None:
                self._fail(error, doing)
            else:
                then(result)

        background.submit(work, done)  # type: ignore[arg-type]

    def _fail(self, error: BaseException | None, doing: str) -> None:
        """Background work has failed: the run cannot go on by itself."""
        if not isinstance(error, FlctlError):
            logger.error("round=%d could not %s", self.id, doing, exc_info=error)
        self._done(None, f"round {self.id} could not {doing}: {error}", False)
