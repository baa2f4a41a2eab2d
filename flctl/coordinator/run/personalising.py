"""After a run: its agents fine-tune one of its models, each for itself, and send figures alone.

Each agent that is here is asked at once. One that is away is waited for `wait_s`, and all of them
until the deadline. It ends when no agent is left to wait for; those that have not done it are
named, with the reason, and can be asked again by another order.
"""

import logging
import math
from typing import Any, get_args

from flctl.coordinator.run.context import Heard, RunContext, RunInput
from flctl.coordinator.run.steps import Steps
from flctl.coordinator.store.folder import RunFolder
from flctl.core import events
from flctl.core.history import History
from flctl.core.personal import personalised
from flctl.core.plausible import verified
from flctl.core.round import STARTING_S, Back, Gone
from flctl.core.stream import AgentFailed, AgentsAwaited, BatchTrained, Published
from flctl.wire import messages
from flctl.wire.messages import MeasuredPart, Sums, Whose

logger = logging.getLogger(__name__)

Found = dict[tuple[Whose, MeasuredPart], Sums | None]


class Personalising:
    """In the place of a run (`flctl.coordinator.run.run.Run`), whose folder and journal it has."""

    def __init__(self, context: RunContext, began: events.PersonalisingBegan) -> None:
        self._context, self._began = context, began
        self._steps = Steps(self.give_up)
        self._waiting: dict[str, Found] = {}
        """What each awaited agent has sent so far."""
        self._without: dict[str, str] = {}
        self._at_work: set[str] = set()
        """Those that have the order, and have been here since."""
        self._away_since: dict[str, float] = {}
        self._until = context.clock() + began.deadline_s
        self._size = 0
        """Of the model, in bytes."""
        self._told: AgentsAwaited | None = None
        self.ended = False

    @property
    def run(self) -> str:
        return self._context.run

    @property
    def folder(self) -> RunFolder:
        return self._context.folder

    @property
    def history(self) -> History:
        return self._context.history

    def status(self) -> dict[str, Any]:
        """Status for `flctl status`."""
        return {
            "run": self.run,
            "round": self.history.round,
            "rounds": self._context.settings.rounds,
            "phase": "personalising",
            "waiting_for": sorted(self._waiting),
            "why": self._why_away(),
            "time_left_s": round(max(0.0, self._until - self._context.clock()), 1),
        }

    def waiting(self) -> AgentsAwaited | None:
        """The event that names the agents that are waited for though they are away."""
        why = self._why_away()
        return AgentsAwaited(missing=why) if why else None

    # From start to end -----------------------------------------------------------------------

    def begin(self) -> None:
        self._steps.do(self._begin)

    def _begin(self) -> None:
        context, began = self._context, self._began
        if self.history.personalising != began:
            context.record([began])
        logger.info("run=%s personalising=%d begins", self.run, began.number)
        model = context.folder.kept_model(began.round, self.history)
        context.serve(began.model, model)
        self._size = model.stat().st_size
        done = {a for a, e in self.history.personal.items() if e.number == began.number}
        for agent in sorted(self._asked() - done):
            self._waiting[agent] = {}
            self._invite(agent)
        self._look()

    def _asked(self) -> set[str]:
        """Those that were named; else those that took part in the run, and who has data for it."""
        if self._began.agents:
            return {*self._began.agents}
        context = self._context
        here = {m for m in context.host.roster.members if self._is_of_the_run(m)}
        return {*self.history.updates, *here} & {*context.host.enrolled()}

    def _is_of_the_run(self, agent: str) -> bool:
        return self._fits(agent) and self._context.crew().selects(agent)

    def _fits(self, agent: str) -> bool:
        crew, member = self._context.crew(), self._context.host.roster.members.get(agent)
        return member is not None and crew.fits(member, self._context.clock())

    def _invite(self, agent: str) -> None:
        if not self._fits(agent):
            return
        context, began, settings = self._context, self._began, self._context.settings
        sent = context.host.tell(
            agent,
            messages.Personalise(
                key=self._key,
                number=began.number,
                model=context.model(began.model, self._size),
                brought=context.started.begun is not None,
                task=settings.task,
                dataset=settings.dataset,
                training=began.training,
                tensors=began.tensors,
                task_args=settings.task_args,
                seed=settings.seed,
                batch_size=settings.test_batch_size,
            ),
        )
        if sent:
            self._at_work.add(agent)
            self._away_since.pop(agent, None)

    @property
    def _key(self) -> messages.WorkKey:
        began = self._began
        return messages.WorkKey(run=self.run, version=began.round, base=began.model)

    def stop(self, reason: str) -> None:
        """By an operator's order: who has not done it is left out."""
        self._steps.do(lambda: self._end(reason))

    def abandon(self) -> None:
        """The coordinator stops: it continues at the next start."""
        self.ended = True
        self._context.journal.close()

    def give_up(self, error: Exception) -> None:
        """A step has failed because the disk did."""
        logger.error("run=%s cannot be personalised: %s", self.run, error)
        if not self.ended:
            self._cancel()
            self.abandon()
            self._context.host.publish(Published(self.run, self._ended(str(error))))

    def _end(self, reason: str) -> None:
        if self.ended:
            return
        self._cancel()
        for agent in self._waiting:
            self._without.setdefault(agent, self._excuse(agent) or reason)
        self._waiting.clear()
        self._context.journal.append([event := self._ended()])
        self.ended = True
        self._context.note([event])
        logger.info("run=%s personalising=%d ended", self.run, self._began.number)
        self._context.journal.close()

    def _ended(self, reason: str = "") -> events.PersonalisingEnded:
        return events.PersonalisingEnded(
            at=self._context.now(),
            number=self._began.number,
            round=self._began.round,
            without=dict(sorted(self._without.items())),
            reason=reason,
        )

    def _cancel(self) -> None:
        for agent in self._waiting:
            self._context.host.tell(agent, messages.Cancel(run=self.run))

    # What comes in ---------------------------------------------------------------------------

    def on(self, event: RunInput) -> None:
        self._steps.do(lambda: self._on(event))

    def _on(self, event: RunInput) -> None:
        if self.ended:
            return
        match event:
            case Back(agent) if agent in self._waiting:
                self._invite(agent)
            case Back(agent) if not self._began.agents and self._is_new(agent):
                self._waiting[agent] = {}
                self._invite(agent)
            case Gone(agent):
                self._at_work.discard(agent)
            case Heard(agent, messages.UpdateReady() as offer):
                why = "its run is over"
                self._context.host.tell(agent, messages.Discarded(key=offer.key, reason=why))
            case Heard(agent, messages.Progress() as progress) if progress.key == self._key:
                self._on_progress(agent, progress)
            case Heard(agent, messages.Failed(what="personalise") as failed):
                self._on_failed(agent, failed)
            case Heard(agent, messages.Personalised() as answer):
                self._on_answer(agent, answer)
        self._look()

    def _is_new(self, agent: str) -> bool:
        """It has come while the others are at it."""
        known = self.history.personal.get(agent)
        done = known is not None and known.number == self._began.number
        return not done and agent not in self._without and self._is_of_the_run(agent)

    def _look(self) -> None:
        """The agents to stop waiting for, and whether it is over."""
        if self.ended:
            return
        context = self._context
        now = context.clock()
        for agent in list(self._waiting):
            if self._is_out(agent, now):
                self._without[agent] = self._excuse(agent) or "away"
                del self._waiting[agent]
        if not self._waiting:
            self._end("")
        elif now >= self._until:
            self._end(f"not done at the deadline of {self._began.deadline_s:g} s")
        elif (told := self.waiting()) is not None and told != self._told:
            self._told = told
            context.publish(told)

    def _is_out(self, agent: str, now: float) -> bool:
        """Whether nothing is to be expected of it."""
        context, roster = self._context, self._context.host.roster
        if agent in self._at_work or (context.is_here(agent) and self._fits(agent)):
            return False
        member = roster.members.get(agent)
        cannot = agent in roster.cordoned or agent not in context.host.enrolled()
        if cannot or (member is not None and member.ready):
            return True
        starting = member is not None and member.connected and member.state == "starting"
        longest = self._began.wait_s + (STARTING_S if starting else 0.0)
        return now >= self._away_since.setdefault(agent, now) + longest

    def _excuse(self, agent: str) -> str:
        """Why it is not at it; empty for one that is."""
        if agent in self._at_work:
            return ""
        return self._context.crew().excuse(agent, self._context.clock())

    def _why_away(self) -> str:
        away = {agent for agent in self._waiting if self._excuse(agent)}
        return self._context.crew().why_not(away, self._context.clock())

    def _on_progress(self, agent: str, progress: messages.Progress) -> None:
        loss = progress.loss if math.isfinite(progress.loss) else None
        step, steps, number = progress.step, progress.steps, self._began.round
        self._context.publish(
            BatchTrained(round=number, agent=agent, step=step, steps=steps, loss=loss)
        )

    def _on_failed(self, agent: str, failed: messages.Failed) -> None:
        if failed.key != self._key or agent not in self._waiting:
            return
        if self._context.host.gate.passes(agent):
            kind, why, again = failed.kind, failed.message, failed.retrying
            logger.warning("run=%s agent=%s personalise failed: %s: %s", self.run, agent, kind, why)
            self._context.publish(
                AgentFailed(
                    round=self._began.round, agent=agent, kind=kind, message=why, retrying=again
                )
            )
        if not failed.retrying:
            self._at_work.discard(agent)
            self._without[agent] = f"{failed.kind}: {failed.message}"
            del self._waiting[agent]

    def _on_answer(self, agent: str, answer: messages.Personalised) -> None:
        found = self._waiting.get(agent)
        if found is None or (answer.key, answer.number) != (self._key, self._began.number):
            return
        settings, measures = self._context.settings, self._context.started.measures
        member = self._context.host.roster.members[agent]
        declared = member.examples(settings.task, settings.dataset, answer.part)
        most, wrong = self._began.training.epochs, ""
        if answer.epochs > most:
            wrong = f"{answer.epochs} epochs, {most} at most"
        elif answer.sums is not None:
            try:
                verified(answer.sums, measures, declared)
            except ValueError as error:
                wrong = str(error)
        if wrong:
            text = "run=%s agent=%s sent impossible metrics: %s"
            self._context.host.gate.warning(logger, agent, text, self.run, agent, wrong)
            self._without[agent] = f"sent impossible metrics: {wrong}"
            del self._waiting[agent]
            return
        found[answer.whose, answer.part] = answer.sums
        models: tuple[Whose, ...] = get_args(Whose) if answer.epochs else ("shared",)
        if found.keys() >= {(whose, part) for whose in models for part in get_args(MeasuredPart)}:
            self._on_done(agent, answer.epochs, found)

    def _on_done(self, agent: str, epochs: int, found: Found) -> None:
        sums: dict[str, dict[MeasuredPart, Sums]] = {whose: {} for whose in get_args(Whose)}
        for (whose, part), each in found.items():
            if each is not None:
                sums[whose][part] = each
        measures, now = self._context.started.measures, self._context.now()
        self._context.record([personalised(self._began, agent, epochs, sums, measures, now)])
        del self._waiting[agent]
