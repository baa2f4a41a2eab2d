"""One run from its first round to its last. Read it from top to bottom:

    begin ─► gather agents ─► open a round ─► collect updates ─► aggregate ─► evaluate
                  ▲                                                              │
                  └────────────────────────── commit ◄───────────────────────────┘

Nothing here blocks: messages, outcomes of background work and the time come in, and
the round's state machine (`flctl.core.round`) says what to do.
"""

import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from flctl.coordinator.aggregation import Aggregated, aggregate
from flctl.coordinator.background import Background
from flctl.coordinator.collection import Collection, Outcome
from flctl.coordinator.evaluating import Evaluating
from flctl.coordinator.evaluator import Evaluator
from flctl.coordinator.gathering import Gathering
from flctl.coordinator.journal import Journal, as_json
from flctl.coordinator.runs import RunFolder
from flctl.core import history as happened
from flctl.core import round as rounds
from flctl.core.history import History, Participant, Score
from flctl.core.randomness import sample
from flctl.core.roster import Member, Roster
from flctl.errors import FlctlError, NoAgents, StateError
from flctl.settings import RunSettings
from flctl.wire.messages import (
    Accepted,
    Cancel,
    Chunk,
    Discarded,
    Evaluated,
    Failed,
    Message,
    Progress,
    RoundKey,
    Train,
    UpdateReady,
)

logger = logging.getLogger(__name__)

HEADER_SLACK = 1 << 20
"""How much larger than the model an update may be: another writer's header."""
RETURN_S = 20.0
"""After a restart, how long invited agents may take to come back before they count as gone."""


class Fleet(Protocol):
    """What a run needs of the coordinator around it."""

    roster: Roster

    def tell(self, agent: str, message: Message) -> bool:
        """Send to an agent; False when it is not connected."""

    def enrolled(self) -> list[str]:
        """Names of all agents that have a key."""

    def serve(self, digest: str, path: Any) -> None:
        """Let agents fetch the blob from this file from now on."""

    def publish(self, event: dict[str, Any]) -> None:
        """For whoever watches the run."""


class Training:
    def __init__(
        self,
        folder: RunFolder,
        settings: RunSettings,
        history: History,
        journal: Journal,
        fleet: Fleet,
        disk: Background,
        thinking: Background,
        evaluator: Evaluator,
        clock: Callable[[], float],
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.folder, self.settings, self.history = folder, settings, history
        self._journal, self._fleet = journal, fleet
        self._disk, self._thinking, self._evaluator = disk, thinking, evaluator
        self._clock, self._wall_clock = clock, wall_clock
        self._gathering: Gathering | None = None
        self._has_gathered = False
        """Once the fleet was given time to come, rounds go on with whoever is there."""
        self._round: rounds.Round | None = None
        self._collection: Collection | None = None
        self._evaluating: Evaluating | None = None
        self._aggregated: Aggregated | None = None
        self._score: Score | None = None
        self._participants: tuple[str, ...] = ()
        self._missing: tuple[str, ...] = ()
        self._round_began = 0.0
        self._absent_until: float | None = None
        self.ended = False

    @property
    def run(self) -> str:
        return self.folder.name

    @property
    def model_size(self) -> int:
        started = self.history.started
        assert started is not None
        return self.history.rounds[-1].size if self.history.rounds else started.size

    @property
    def _task_digest(self) -> str:
        started = self.history.started
        assert started is not None
        return started.task_digest

    # From start to gathering -----------------------------------------------------------

    def begin(self) -> None:
        """Start, or go on where the journal ends."""
        logger.info("run=%s begins at round %d", self.run, self.history.round + 1)
        self._fleet.publish(
            {
                "event": "begun",
                "run": self.run,
                "round": self.history.round,
                "rounds": self.settings.rounds,
                "task": self.settings.task,
                "agents": list(self.settings.agents),
            }
        )
        if self.history.rounds:
            self.folder.settle(self.history.rounds[-1], self.history, self.settings.keep_rounds)
        if self.history.opened is not None:
            self._guarded(self._reopen)
        else:
            self._gather()

    def _gather(self) -> None:
        """Wait for the agents of the next round, or end when there is none."""
        if self.history.round >= self.settings.rounds:
            self._end(happened.Finished(at=self._now()))
            return
        if self.settings.on_exhausted == "stop" and self.history.exhausted:
            names = ", ".join(sorted(self.history.exhausted))
            self._end(happened.Finished(at=self._now(), reason=f"all data used: {names}"))
            return
        self._gathering = Gathering(
            self.settings,
            self._task_digest,
            self._fleet.roster,
            self._fleet.enrolled,
            self._clock(),
            first=not self._has_gathered,
        )
        self._look_for_agents()

    def _look_for_agents(self) -> None:
        if self._gathering is None:
            return
        try:
            agents = self._gathering.look(self._clock())
        except NoAgents as error:
            self._gathering = None
            self._pause(str(error))
            return
        if agents is not None:
            self._gathering = None
            self._has_gathered = True
            self._guarded(lambda: self._open(agents))
        elif self._gathering.changed_at == self._clock():
            self._fleet.publish(
                {
                    "event": "waiting",
                    "ready": self._gathering.ready(),
                    "missing": self._gathering.why_not(),
                }
            )

    # A round opens ---------------------------------------------------------------------

    def _open(self, agents: list[str]) -> None:
        round_id = self.history.round + 1
        count = max(1, math.ceil(self.settings.fraction * len(agents) - 1e-9))
        invited = sample(self.settings.seed, round_id, agents, count)
        self.folder.room_for(self.model_size, len(invited))
        opened = happened.Opened(
            at=self._now(),
            round=round_id,
            attempt=1,
            base=self.history.base,
            invited=tuple(invited),
            need=self.settings.quorum_of(len(invited)),
        )
        # Not synced: if it is lost in a crash, the round opens again, as good as new.
        self._record([opened], sync=False)
        self._begin_round(opened, arrived=())

    def _reopen(self) -> None:
        """Go on in the round that was open when the coordinator stopped."""
        opened = self.history.opened
        assert opened is not None
        spool = self.folder.make_spool(opened.round)
        for agent, update in list(self.history.accepted.items()):
            path = spool / f"{agent}.safetensors"
            if not path.exists() or path.stat().st_size != update.size:
                logger.warning("round=%d agent=%s update is not in the spool", opened.round, agent)
                del self.history.accepted[agent]
        self.folder.room_for(self.model_size, len(opened.invited) - len(self.history.accepted))
        self._absent_until = self._clock() + RETURN_S
        logger.info(
            "run=%s round=%d goes on with the updates of %s",
            self.run,
            opened.round,
            ", ".join(sorted(self.history.accepted)) or "nobody yet",
        )
        self._begin_round(opened, arrived=self.history.accepted)

    def _begin_round(self, opened: happened.Opened, arrived: Any) -> None:
        self.folder.verify_model(opened.round - 1, opened.base)
        self._fleet.serve(opened.base, self.folder.model_path(opened.round - 1))
        self._collection = Collection(
            self.folder,
            opened.round,
            self._fleet,
            self._disk,
            self._journal,
            self._wall_clock,
            self._clock,
            self._take,
        )
        self._round = rounds.Round(
            opened.round,
            opened.base,
            opened.invited,
            opened.need,
            self.settings.deadline_s,
            arrived=arrived,
            attempt=opened.attempt,
        )
        self._round_began = self._clock()
        self._score, self._missing = None, ()
        if self._absent_until is None:
            self._round.gone = {a for a in opened.invited if not self._is_here(a)} - set(arrived)
        self._act(self._round.open(self._clock()))

    # Updates come in -------------------------------------------------------------------

    def on_offer(self, member: Member, offer: UpdateReady) -> None:
        round_ = self._round
        if round_ is None or offer.key.run != self.run:
            reason = "of another run" if offer.key.run != self.run else "no round is open"
            self._fleet.tell(member.name, Discarded(key=offer.key, reason=reason))
            return
        actions = round_.on_offer(member.name, offer.key.round, offer.key.base)
        wrong = self._wrong_with(member, offer)
        if wrong and any(isinstance(action, rounds.Pull) for action in actions):
            self._reject(member.name, wrong)
            return
        for action in actions:
            if isinstance(action, rounds.Pull) and self._collection is not None:
                self._collection.pull(member.name, offer)
            elif isinstance(action, rounds.Discard) and offer.key != self._key():
                self._fleet.tell(member.name, Discarded(key=offer.key, reason=action.reason))
            else:
                self._act([action])

    def on_chunk(self, agent: str, chunk: Chunk, payload: Any) -> None:
        if self._collection is not None:
            self._collection.on_chunk(agent, chunk, payload)

    def on_blob_gone(self, agent: str, digest: str) -> None:
        if self._collection is not None and self._collection.forget(agent, digest) and self._round:
            self._act(self._round.on_failed(agent, "it lost its update before it was fetched"))

    def on_progress(self, agent: str, progress: Progress) -> None:
        if progress.key == self._key():
            self._fleet.publish(
                {
                    "event": "progress",
                    "round": progress.key.round,
                    "agent": agent,
                    "step": progress.step,
                    "steps": progress.steps,
                    "loss": progress.loss if math.isfinite(progress.loss) else None,
                }
            )

    def on_failed(self, agent: str, failed: Failed) -> None:
        self._fleet.publish(
            {
                "event": "agent-failed",
                "round": failed.key.round,
                "agent": agent,
                "kind": failed.kind,
                "message": failed.message,
                "retrying": failed.retrying,
            }
        )
        logger.warning(
            "round=%d agent=%s %s failed: %s: %s%s",
            failed.key.round,
            agent,
            failed.what,
            failed.kind,
            failed.message,
            "; it tries again" if failed.retrying else "",
        )
        if failed.retrying:
            return
        if failed.what == "train" and failed.key == self._key() and self._round is not None:
            self._act(self._round.on_failed(agent, f"{failed.kind}: {failed.message}"))
        if failed.what == "evaluate" and self._evaluating is not None:
            self._evaluating.on_gone(agent)

    def on_evaluated(self, agent: str, answer: Evaluated) -> None:
        if self._evaluating is not None:
            self._evaluating.on_answer(agent, answer)

    # Agents come and go ----------------------------------------------------------------

    def on_here(self, agent: str) -> None:
        """The agent is connected and ready (again)."""
        if self._round is not None:
            self._act(self._round.on_back(agent))
        if self._evaluating is not None:
            self._evaluating.on_here(agent)
        self._look_for_agents()

    def on_gone(self, agent: str) -> None:
        if self._collection is not None and self._collection.has_whole(agent):
            return  # all of its update is here: it does not matter any more
        if self._collection is not None:
            self._collection.suspend(agent)
        if self._round is not None:
            self._act(self._round.on_gone(agent))
        if self._evaluating is not None:
            self._evaluating.on_gone(agent)

    def on_time(self) -> None:
        now = self._clock()
        if self._gathering is not None:
            self._look_for_agents()
        if self._collection is not None:
            self._collection.on_time(now)
        if self._absent_until is not None and now >= self._absent_until and self._round is not None:
            self._absent_until = None
            for agent in sorted(self._round.waiting):
                if not self._is_here(agent):
                    self.on_gone(agent)
        busy = self._collection is not None and self._collection.storing
        if self._round is not None and not busy:
            self._act(self._round.on_time(now))
        if self._evaluating is not None:
            self._evaluating.on_time()

    # The round closes: aggregate, evaluate, commit ---------------------------------------

    def _aggregate(self, action: rounds.Aggregate) -> None:
        self._participants, self._missing = action.participants, action.missing
        self._absent_until = None
        self._close_collection()
        for agent in action.missing:
            if self._is_here(agent):
                self._fleet.tell(agent, Cancel(run=self.run))
        assert self._round is not None
        round_id = self._round.id
        examples = {a: self.history.accepted[a].examples for a in action.participants}
        self._disk.submit(
            lambda: aggregate(self.folder, round_id, examples, self.settings),
            self._on_aggregated,
        )

    def _on_aggregated(self, result: Aggregated | None, error: BaseException | None) -> None:
        if self._round is None:
            return
        if result is None:
            self._on_broken(error, "aggregate")
            return
        self._aggregated = result
        self._act(self._round.on_aggregated())

    def _evaluate(self) -> None:
        assert self._round is not None and self._aggregated is not None
        key = RoundKey(run=self.run, round=self._round.id, base=self._aggregated.model)
        self._evaluating = Evaluating(
            key,
            self._aggregated,
            self.settings,
            self._fleet,
            self._thinking,
            self._evaluator,
            self._clock,
            self._on_score,
        )
        self._evaluating.begin()

    def _on_score(self, score: Score | None, error: BaseException | None) -> None:
        self._evaluating = None
        if self._round is None:
            return
        if error is not None:
            self._on_broken(error, "evaluate")
            return
        self._score = score
        self._act(self._round.on_evaluated())

    def _commit(self) -> None:
        assert self._round is not None and self._aggregated is not None
        made = self._aggregated
        event = happened.Round(
            at=self._now(),
            round=self._round.id,
            attempt=self._round.attempt,
            model=made.model,
            size=made.size,
            seconds=round(self._clock() - self._round_began, 4),
            participants={
                agent: Participant(u.examples, u.batches, u.loss, u.seconds)
                for agent in self._participants
                for u in (self.history.accepted[agent],)
            },
            missing=self._missing,
            metrics=self._score,
        )

        def work() -> happened.Round:
            self.folder.install_model(event.round, made.path)
            self._journal.append([event])
            return event

        self._disk.submit(work, self._on_committed)

    def _on_committed(self, event: happened.Round | None, error: BaseException | None) -> None:
        if self._round is None:
            return
        if event is None:
            self._on_broken(error, "commit")
            return
        self._round.on_committed()
        self.history.apply(event)
        self._round = self._aggregated = None
        for agent in event.participants:
            self._fleet.roster.member(agent).last_round = event.round
        self._fleet.serve(event.model, self.folder.model_path(event.round))
        logger.info(
            "round=%d committed agents=%d took_s=%.2f%s",
            event.round,
            len(event.participants),
            event.seconds,
            f" loss={event.metrics.loss:.4f} accuracy={event.metrics.accuracy:.4f}"
            if event.metrics
            else "",
        )
        self._disk.submit(
            lambda: self.folder.settle(event, self.history, self.settings.keep_rounds),
            self._on_settled,
        )
        self._fleet.publish(as_json(event))
        self._gather()

    def _on_settled(self, _: None, error: BaseException | None) -> None:
        if error is not None:
            logger.warning("run=%s could not tidy up: %s", self.run, error)

    # The run ends ----------------------------------------------------------------------

    def stop(self, reason: str) -> None:
        """End the run on an operator's word; it can be resumed."""
        if not self.ended:
            self._end(happened.Stopped(at=self._now(), reason=reason))

    def abandon(self) -> None:
        """The coordinator stops: leave everything so that the run goes on at its next start."""
        self._close_collection()
        self._round = self._gathering = self._evaluating = None
        self.ended = True
        self._journal.close()

    def _pause(self, reason: str) -> None:
        logger.error("run=%s paused: %s", self.run, reason)
        self._end(happened.Paused(at=self._now(), reason=reason))

    def _end(self, event: happened.AnyEvent) -> None:
        self._close_collection()
        self._round = self._gathering = self._evaluating = None
        for member in self._fleet.roster.connected():
            if not isinstance(event, happened.Finished):
                self._fleet.tell(member.name, Cancel(run=self.run))

        def done(_: object, error: BaseException | None) -> None:
            if error is not None:
                logger.error("run=%s its end could not be written: %s", self.run, error)
            self.history.apply(event)
            self.ended = True
            self._journal.close()
            self._fleet.publish(as_json(event))

        self._disk.submit(lambda: self._journal.append([event]), done)

    def _on_broken(self, error: BaseException | None, doing: str) -> None:
        """Background work failed: the run cannot go on by itself."""
        round_id = self._round.id if self._round else self.history.round
        if not isinstance(error, FlctlError):
            logger.error("round=%d could not %s", round_id, doing, exc_info=error)
        self._pause(f"round {round_id} could not {doing}: {error}")

    # Small parts -------------------------------------------------------------------------

    def _act(self, actions: Sequence[rounds.Action]) -> None:
        for action in actions:
            match action:
                case rounds.Invite(agent):
                    self._invite(agent)
                case rounds.Accept(agent):
                    self._fleet.tell(agent, Accepted(key=self._key()))
                case rounds.Discard(agent, reason):
                    self._fleet.tell(agent, Discarded(key=self._key(), reason=reason))
                case rounds.Aggregate():
                    self._aggregate(action)
                case rounds.Evaluate():
                    self._evaluate()
                case rounds.Commit():
                    self._commit()
                case rounds.Fail(error):
                    self._on_round_failed(error)
                case rounds.Pull():
                    raise RuntimeError("a pull needs the offer that goes with it")

    def _invite(self, agent: str) -> None:
        assert self._round is not None
        if not self._is_here(agent):
            return
        train = Train(
            key=self._key(),
            size=self.model_size,
            task=self.settings.task,
            dataset=self.settings.dataset,
            training=self.settings.local_training(self._round.id),
            seed=self.settings.seed,
            position=self.history.positions.get(agent, 0),
        )
        self._fleet.tell(agent, train)

    def _take(self, outcome: Outcome) -> None:
        """What the collection has to say: an update is safe, or is not good."""
        for update in outcome.stored:
            self.history.apply(update)
            self._fleet.publish(as_json(update))
        if self._round is None:
            return
        for update in outcome.stored:
            self._act(self._round.on_stored(update.agent))
        for agent, reason in outcome.rejected:
            self._reject(agent, reason)
        if outcome.error is not None:
            self._on_broken(outcome.error, "store an update")

    def _reject(self, agent: str, reason: str) -> None:
        assert self._round is not None
        logger.warning("round=%d agent=%s update rejected: %s", self._round.id, agent, reason)
        self._fleet.roster.member(agent).note = f"round {self._round.id}: {reason}"
        event = happened.Rejected(at=self._now(), round=self._round.id, agent=agent, reason=reason)
        self._record([event], sync=False)
        self._act(self._round.on_rejected(agent, reason))

    def _wrong_with(self, member: Member, offer: UpdateReady) -> str | None:
        """What forbids even to fetch the update; None when nothing does."""
        declared = member.examples(self.settings.task, self.settings.dataset)
        if offer.examples > declared:
            return f"it claims {offer.examples} examples, {declared} were declared"
        if offer.size > self.model_size + HEADER_SLACK:
            return f"it offers {offer.size} bytes, the model has {self.model_size}"
        if not (math.isfinite(offer.loss) and math.isfinite(offer.last_loss)):
            return "its training loss is not a finite number; lower the learning rate"
        return None

    def _on_round_failed(self, error: FlctlError) -> None:
        assert self._round is not None
        attempt = self._round.attempt
        reason = str(error)
        failed = "; ".join(f"{a}: {why}" for a, why in sorted(self._round.failed.items()))
        reason += f" [{failed}]" if failed else ""
        self._record(
            [happened.Attempt(at=self._now(), round=self._round.id, attempt=attempt, reason=reason)]
        )
        if attempt >= self.settings.attempts:
            self._pause(
                f"{reason}, after {attempt} attempts; resume with: flctl train --resume {self.run}"
            )
            return
        logger.warning(
            "round=%d attempt=%d failed: %s; trying again", self._round.id, attempt, reason
        )
        self._act(self._round.retry(self._clock()))

    def _record(self, events: Sequence[happened.AnyEvent], sync: bool = True) -> None:
        try:
            self._journal.append(events, sync)
        except StateError as error:
            self._on_broken(error, "write the journal")
            return
        for event in events:
            self.history.apply(event)
            self._fleet.publish(as_json(event))

    def _guarded(self, step: Callable[[], None]) -> None:
        """Run a step that may find the disk full or a file damaged: then the run pauses."""
        try:
            step()
        except (FlctlError, OSError) as error:
            self._pause(str(error))

    def _close_collection(self) -> None:
        if self._collection is not None:
            self._collection.close()
            self._collection = None

    def _key(self) -> RoundKey:
        assert self._round is not None
        return RoundKey(run=self.run, round=self._round.id, base=self._round.base)

    def _is_here(self, agent: str) -> bool:
        member = self._fleet.roster.members.get(agent)
        return member is not None and member.ready

    def _now(self) -> float:
        return round(self._wall_clock(), 3)

    def status(self) -> dict[str, Any]:
        """What a person asks first."""
        waiting = sorted(self._round.waiting) if self._round else []
        return {
            "run": self.run,
            "round": self.history.round,
            "rounds": self.settings.rounds,
            "phase": self._round.phase.value if self._round else "gathering",
            "waiting_for": waiting,
            "accepted": sorted(self._round.arrived) if self._round else [],
            "time_left_s": self._round.time_left(self._clock()) if self._round else None,
        }
