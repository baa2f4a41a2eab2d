"""One round, from the invitation to the commit:

    begin ─► collect updates ─► aggregate ─► evaluate ─► commit

The round's state machine (`flctl.core.round`) decides; this carries out what it says.
"""

import logging
import math
from collections.abc import Callable, Sequence

import msgspec

from flctl.coordinator.run.accepting import Accepting
from flctl.coordinator.run.aggregation import Aggregated, aggregate
from flctl.coordinator.run.claims import jumps
from flctl.coordinator.run.context import RunContext
from flctl.coordinator.run.evaluating import Evaluating
from flctl.coordinator.run.gathering import CORDONED_S, STARTING_S
from flctl.coordinator.run.intake import Collection, Outcome
from flctl.core import history as happened
from flctl.core import round as rounds
from flctl.core.history import Participant, Score
from flctl.core.roster import Member, Refusal
from flctl.core.stream import AgentsAwaited
from flctl.errors import FlctlError
from flctl.transport.channel import Frame
from flctl.wire.messages import (
    Accepted,
    Cancel,
    Chunk,
    Digest,
    Discarded,
    Evaluated,
    Failed,
    RoundKey,
    Train,
    UpdateReady,
)

logger = logging.getLogger(__name__)

HEADER_SLACK = 1 << 20
"""How much larger than the model an update may be: another writer's header."""
RETURN_S = 20.0
"""After a restart, how long invited agents may take to come back before they count as gone."""

TELL_S = 5.0
"""For whom a round waits is told at most so often."""

Done = Callable[[happened.RoundCommitted | None, str, bool], None]


class RoundDriver:
    """`resumed`: it was open when the coordinator stopped.

    `done(event, "", False)` is called when the round is committed, `done(None, reason, awaits)`
    when it cannot go on; `awaits`: before more agents are here. Whatever comes after `close` is
    ignored."""

    def __init__(
        self,
        context: RunContext,
        opened: happened.RoundOpened,
        done: Done,
        resumed: bool = False,
    ) -> None:
        self._context, self._done = context, done
        self._arrived = set(context.history.accepted)
        self._round = rounds.Round(
            opened.round,
            opened.base,
            opened.invited,
            max(opened.need, context.min_participants),
            context.settings.deadline_s,
            arrived=self._arrived,
            attempt=opened.attempt,
            patience_s=context.settings.wait_s,
        )
        self._crew, self._absent = context.crew(), set(opened.absent)
        self._tries = 0
        """Attempts that have failed, but for those which ended because agents were away."""
        self._told: tuple[tuple[str, bool], float] = (("", False), -math.inf)
        """For whom the round was said to wait last and whether for nothing else, and when."""
        self.key = RoundKey(run=context.run, round=opened.round, base=opened.base)
        self._began = context.clock()
        self._absent_until = self._began + RETURN_S if resumed else self._began
        self._collection: Collection | None = None
        self._evaluating: Evaluating | None = None
        self._participants: tuple[str, ...] = ()
        self._missing: tuple[str, ...] = ()
        self._accepting = Accepting(context.journal, self._tell_accepted)
        self._made: Aggregated | None = None
        self._score: Score | None = None
        self._retry_at = math.inf
        """When the next attempt begins, after one that has failed."""
        self._closed = False
        self.committing = False
        """Its commit is on its way to the journal: it will stand there, whatever happens now."""

    def begin(self) -> None:
        """Invite. Raises FlctlError when the disk fails."""
        context = self._context
        base = context.folder.model_path(self.key.round - 1)
        context.fleet.serve(self.key.base, base)
        self._collection = Collection(
            context.folder,
            self.key.round,
            context.settings,
            context.fleet,
            context.disk,
            context.journal,
            context.wall_clock,
            context.clock,
            lambda agents: self._round.waiting <= agents,
            self._on_outcome,
        )
        self._act(self._round.open(context.clock()))
        self._look_for_absent()

    def close(self) -> None:
        """Nothing more is wanted of this round."""
        self._closed = True
        if self._evaluating is not None:
            self._evaluating.close()
        self._evaluating = None
        if self._collection is not None:
            self._collection.close()
            self._collection = None

    def status(self) -> dict[str, object]:
        now = self._context.clock()
        failed = self._round.phase is rounds.Phase.FAILED
        left = self._retry_at - now if self._retry_at < math.inf else self._round.time_left(now)
        return {
            "phase": "waiting to try again" if failed else self._round.phase.value,
            "waiting_for": sorted(self._round.failed if failed else self._round.waiting),
            "why": self._away(),
            "accepted": sorted(self._round.arrived),
            "time_left_s": round(max(0.0, left), 1),
        }

    def waiting(self) -> AgentsAwaited | None:
        """The event that says for whom the round waits, though they are away; None: for none."""
        missing = self._away()
        if not missing:
            return None
        left_s = round(self._round.time_left(self._context.clock()), 1)
        ready = tuple(sorted(self._round.arrived | self._round.waiting))
        return AgentsAwaited(round=self.key.round, ready=ready, missing=missing, left_s=left_s)

    def _away(self) -> str:
        """Who is away and needed, and why, in words."""
        if not self._round.short:
            return ""
        return self._crew.why_not(self._round.gone - self._round.arrived, self._context.clock())

    # Updates come in -------------------------------------------------------------------

    def on_offer(self, member: Member, offer: UpdateReady) -> None:
        wrong = self._wrong_with(member, offer)
        for action in self._round.on_offer(member.name, offer.key.round, offer.key.base):
            match action:
                case rounds.Pull() if wrong is not None:
                    self._reject(member.name, wrong)
                case rounds.Pull(agent):
                    if self._collection is not None:
                        self._collection.pull(agent, offer)
                case rounds.Discard(agent, reason):
                    self._context.fleet.tell(agent, Discarded(key=offer.key, reason=reason))
                case _:
                    self._act([action])

    def on_chunk(self, agent: str, chunk: Chunk, payload: Frame) -> None:
        if self._collection is not None:
            self._collection.on_chunk(agent, chunk, payload)

    def on_blob_gone(self, agent: str, digest: Digest) -> None:
        if self._collection is not None and self._collection.forget(agent, digest):
            self._act(self._round.on_failed(agent, "it lost its update before it was fetched"))

    def on_failed(self, agent: str, failed: Failed) -> None:
        if failed.what == "train" and failed.key == self.key:
            refused = failed.kind == "owner"
            kind = "its owner does not allow it" if refused else failed.kind
            text = f"{kind}: {failed.message}"
            if refused:
                until = self._context.clock() + (
                    math.inf if failed.again_s is None else failed.again_s
                )
                member = self._context.fleet.roster.member(agent)
                member.refusal = Refusal(self.key.run, text, until)
                member.note = f"run {self.key.run}: {text}"
            self._act(self._round.on_failed(agent, text, refused))
        elif failed.what == "evaluate" and self._evaluating is not None:
            self._evaluating.on_failed(agent, failed.key)

    def on_evaluated(self, agent: str, answer: Evaluated) -> None:
        if self._evaluating is not None:
            self._evaluating.on_answer(agent, answer)

    # Agents come and go ----------------------------------------------------------------

    def on_here(self, agent: str) -> None:
        if not self._context.is_here(agent):
            return  # cordoned: an update that it has finished is welcome, no more is asked of it
        if self._collection is not None:
            self._collection.suspend(agent)  # it offers anew what it still has
        self._act(self._round.on_back(agent))
        if self._evaluating is not None:
            self._evaluating.on_here(agent)

    def on_gone(self, agent: str) -> None:
        if self._collection is not None:
            if self._collection.has_whole(agent):
                return  # all of its update is here: it does not matter any more
            self._collection.suspend(agent)
        self._act(self._round.on_gone(agent))
        if self._evaluating is not None:
            self._evaluating.on_gone(agent)

    def on_time(self) -> None:
        now = self._context.clock()
        self._look_for_absent()
        if now >= self._retry_at:
            self._retry_at = math.inf
            self._try_again(self._draw())
        if self._collection is not None:
            self._collection.on_time(now)
        # What is just being stored was in time.
        if self._collection is None or not self._collection.storing:
            self._round.patience_s = self._patience_s()
            self._act(self._round.on_time(now))
            if self._round.stuck and self._others().holds:
                self._act(self._round.give_up())
        self._tell_waiting(now)
        if self._evaluating is not None:
            self._evaluating.on_time()

    def _patience_s(self) -> float:
        """How long those who are away are waited for; longer for one that is just starting, or
        that an operator holds back."""
        roster, wait_s = self._context.fleet.roster, self._context.settings.wait_s
        if self._round.gone & roster.cordoned:
            return wait_s + CORDONED_S
        members = (roster.members.get(agent) for agent in self._round.gone)
        starting = any(m is not None and m.connected and m.state == "starting" for m in members)
        return wait_s + (STARTING_S if starting else 0.0)

    def _tell_waiting(self, now: float) -> None:
        news, (told, at) = (self._away(), self._round.stuck), self._told
        if news != told and now >= at + TELL_S and (event := self.waiting()):
            self._told = news, now
            self._context.publish(event)
        elif not news[0]:
            self._told = news, at

    def _look_for_absent(self) -> None:
        """Invited agents that are not here count as gone, at once or after a restart's grace."""
        if self._context.clock() >= self._absent_until:
            self._absent_until = math.inf
            for agent in sorted(self._round.waiting):
                if not self._context.is_here(agent):
                    self.on_gone(agent)

    # Aggregate, evaluate, commit ---------------------------------------------------------

    def _aggregate(self, action: rounds.Aggregate) -> None:
        self._participants, self._missing = action.participants, action.missing
        if self._collection is not None:
            self._collection.close()
            self._collection = None
        context = self._context
        for agent in action.missing:
            context.fleet.tell(agent, Cancel(run=context.run))
        accepted = context.history.accepted
        examples = {agent: accepted[agent].examples for agent in action.participants}

        for agent, why in jumps(examples, context.history).items():
            context.fleet.gate.warning(
                logger, agent, "round=%d agent=%s %s", self.key.round, agent, why
            )
            context.fleet.roster.member(agent).note = f"round {self.key.round}: {why}"

        def work() -> Aggregated:
            made = aggregate(context.folder, self.key.round, examples, context.settings)
            self._accepting.wait()
            return made

        context.disk.submit(work, self._on_aggregated)

    def _on_aggregated(self, made: Aggregated | None, error: BaseException | None) -> None:
        if self._closed:
            return
        if made is None:
            self._fail(error, "aggregate")
            return
        self._accepting.safe()
        self._made = made
        self._act(self._round.on_aggregated())

    def _evaluate(self) -> None:
        assert self._made is not None
        key = RoundKey(run=self.key.run, round=self.key.round, base=self._made.model)
        self._evaluating = Evaluating(self._context, key, self._made, self._on_score)
        self._evaluating.begin()

    def _on_score(self, score: Score | None, error: BaseException | None) -> None:
        self._evaluating = None
        if self._closed:
            return
        if error is not None:
            self._fail(error, "evaluate")
            return
        self._score = score
        self._act(self._round.on_evaluated())

    def _commit(self) -> None:
        context, made = self._context, self._made
        assert made is not None
        event = happened.RoundCommitted(
            at=context.now(),
            round=self.key.round,
            attempt=self._round.attempt,
            model=made.model,
            size=made.size,
            seconds=round(context.clock() - self._began, 4),
            participants={
                agent: Participant.of(context.history.accepted[agent])
                for agent in self._participants
            },
            missing=tuple(sorted({*self._missing, *self._absent} - set(self._participants))),
            metrics=self._score,
            server_state=made.server_state,
        )

        def work() -> happened.RoundCommitted:
            context.journal.append([event])
            return event

        self.committing = True
        context.disk.submit(work, self._on_committed)

    def _on_committed(
        self, event: happened.RoundCommitted | None, error: BaseException | None
    ) -> None:
        self.committing = False
        if self._closed:
            return
        if event is None:
            self._fail(error, "commit")
            return
        self._round.on_committed()
        self._done(event, "", False)

    # What the state machine says -----------------------------------------------------------

    def _act(self, actions: Sequence[rounds.Action]) -> None:
        for action in actions:
            if self._closed:
                return
            match action:
                case rounds.Invite(agent):
                    self._invite(agent)
                case rounds.Accept(agent):
                    self._accepting.accept(agent)
                case rounds.Discard(agent, reason):
                    self._context.fleet.tell(agent, Discarded(key=self.key, reason=reason))
                case rounds.Aggregate():
                    self._aggregate(action)
                case rounds.Evaluate():
                    self._evaluate()
                case rounds.Commit():
                    self._commit()
                case rounds.Fail(error, away):
                    self._on_attempt_failed(error, bool(away))
                case rounds.Pull():
                    raise RuntimeError("a pull needs the offer that goes with it")

    def _invite(self, agent: str) -> None:
        context = self._context
        if not context.is_here(agent):
            return
        train = Train(
            key=self.key,
            size=context.model_size,
            task=context.settings.task,
            dataset=context.settings.dataset,
            training=context.settings.local_training(self.key.round),
            seed=context.settings.seed,
            position=context.history.positions.get(agent, 0),
        )
        context.fleet.tell(agent, train)

    def _on_outcome(self, outcome: Outcome) -> None:
        """What the collection has to say: an update is safe, or is not good."""
        self._context.note(outcome.stored)
        if self._closed:
            return
        if outcome.syncing is not None:
            self._accepting.after(outcome.syncing)
        for update in outcome.stored:
            self._act(self._round.on_stored(update.agent))
        for agent, reason in outcome.rejected:
            self._reject(agent, reason)
        if outcome.error is not None:
            self._fail(outcome.error, "store an update")
        elif outcome.syncing is not None and self._round.phase is not rounds.Phase.CLOSED:
            self._context.disk.submit(self._accepting.wait, self._on_synced)

    def _on_synced(self, _: None, error: BaseException | None) -> None:
        if self._closed:
            return
        if error is not None:
            self._fail(error, "store an update")
            return
        self._accepting.safe()

    def _tell_accepted(self, agent: str) -> None:
        self._context.fleet.tell(agent, Accepted(key=self.key))

    def _wrong_with(self, member: Member, offer: UpdateReady) -> str | None:
        """What forbids even to fetch the update; None when nothing does."""
        settings, size = self._context.settings, self._context.model_size
        declared = member.most.get((settings.dataset, settings.task), 0)
        if offer.examples > declared:
            return f"it claims {offer.examples} examples, {declared} were declared"
        if offer.size > size + HEADER_SLACK:
            return f"it offers {offer.size} bytes, the model has {size}"
        if not 0 <= offer.compression_error < math.inf:
            return "the error of its compression is not a finite number of at least 0"
        if not (math.isfinite(offer.loss) and math.isfinite(offer.last_loss)):
            return "its training loss is not a finite number; begin a new run with a lower lr"
        return None

    def _reject(self, agent: str, reason: str) -> None:
        context = self._context
        context.fleet.gate.warning(
            logger, agent, "round=%d agent=%s update rejected: %s", self.key.round, agent, reason
        )
        context.fleet.roster.member(agent).note = f"round {self.key.round}: {reason}"
        event = happened.UpdateRejected(
            at=context.now(), round=self.key.round, agent=agent, reason=reason
        )
        if self._record(event, sync=False):
            self._act(self._round.on_rejected(agent, reason))

    def _on_attempt_failed(self, error: FlctlError, away: bool) -> None:
        """`away`: because of agents that are not here."""
        context, attempt = self._context, self._round.attempt
        failed = "; ".join(f"{a}: {why}" for a, why in sorted(self._round.failed.items()))
        reason = f"{error} [{failed}]" if failed else str(error)
        event = happened.AttemptFailed(
            at=context.now(), round=self.key.round, attempt=attempt, reason=reason
        )
        if not self._record(event):
            return
        others = self._others()
        ran_out = {agent for agent in self._round.failed if self._crew.has_run_out(agent)}
        broken = self._round.failed.keys() - ran_out
        if (away and others.holds) or ((away or ran_out) and not broken):
            self._try_again(others)
            return
        self._tries += 1
        hopeless = self._round.hopeless and not others.holds
        if hopeless or self._tries >= context.settings.attempts:
            tried = f"{self._tries} attempts" if self._tries > 1 else "1 attempt"
            self._done(None, f"{reason}, after {tried}", False)
            return
        pause_s = rounds.pause_after(self._tries)
        logger.warning(
            "round=%d attempt=%d failed: %s; trying again in %.0f s",
            self.key.round,
            attempt,
            reason,
            pause_s,
        )
        self._retry_at = context.clock() + pause_s

    def _draw(self) -> rounds.Draw:
        """Whom another attempt would ask; those that keep failing only where they are needed."""
        drawn = self._draw_without(self._round.tired)
        return drawn if drawn.holds else self._draw_without(set())

    def _others(self) -> rounds.Draw:
        """The same at once, without those that have failed in this attempt: whether others are
        here by now, or fewer are needed."""
        return self._draw_without(set(self._round.failed))

    def _draw_without(self, agents: set[str]) -> rounds.Draw:
        context = self._context
        pool = self._crew.pool(context.clock())
        return rounds.draw(
            context.settings,
            self.key.round,
            msgspec.structs.replace(pool, here=pool.here - agents),
            self._round.arrived,
            context.min_participants,
        )

    def _try_again(self, drawn: rounds.Draw) -> None:
        """The next attempt, drawn from those that are here; without the quorum the round ends."""
        context = self._context
        if not drawn.holds:
            missing = set(drawn.absent) | (set(drawn.invited) & self._round.gone)
            why = self._crew.why_not(missing, context.clock())
            about = f"{drawn.able} of {drawn.need} required agents are ready ({why})"
            self._done(None, f"round {self.key.round}: {about}", True)
            return
        opened = context.opened(drawn, self._round.attempt + 1)
        if not self._record(opened, sync=False):
            return
        self._absent = set(drawn.absent)
        self._act(self._round.retry(context.clock(), drawn))
        self._absent_until = context.clock()
        self._look_for_absent()

    def _record(self, event: happened.AnyEvent, sync: bool = True) -> bool:
        """False when the journal cannot be written: the round is over then."""
        try:
            self._context.record([event], sync)
        except FlctlError as error:
            self._fail(error, "write the journal")
            return False
        return True

    def _fail(self, error: BaseException | None, doing: str) -> None:
        """Background work has failed: the run cannot go on by itself."""
        if not isinstance(error, FlctlError):
            logger.error("round=%d could not %s", self.key.round, doing, exc_info=error)
        self._done(None, f"round {self.key.round} could not {doing}: {error}", False)
