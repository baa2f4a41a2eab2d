"""Finds out how good a round's model is: on the coordinator's test data, or on the agents'."""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from flctl.coordinator.run.aggregation import Aggregated
from flctl.coordinator.run.context import Heard, RunContext, RunInput
from flctl.coordinator.run.decisions import is_last, positions_after
from flctl.coordinator.run.scoring import parts_to_ask_for, scored
from flctl.core.events import Score, UpdateStored
from flctl.core.plausible import verified
from flctl.core.round import Back, Gone, Tick
from flctl.errors import FlctlError, RunError
from flctl.wire import messages

logger = logging.getLogger(__name__)

Done = Callable[[Score | None, BaseException | None], None]


class Evaluating:
    """One evaluation. `done(score, error)` is called once; score None: no one could measure."""

    def __init__(
        self,
        context: RunContext,
        key: messages.WorkKey,
        made: Aggregated,
        updates: Mapping[str, UpdateStored],
        done: Done,
    ) -> None:
        self._context, self._key, self._made, self._done = context, key, made, done
        self._positions = positions_after(context.history, updates)
        self._settings, self._measures = context.settings, context.started.measures
        self._found: dict[str, messages.Sums] = {}
        """Parts that the coordinator has measured itself."""
        self._asked: dict[str, list[messages.MeasuredPart]] = {}
        self._waiting: dict[str, set[messages.MeasuredPart]] = {}
        """Parts that each agent has still to measure."""
        self._answers: dict[messages.MeasuredPart, dict[str, messages.Sums]] = {}
        self._until: float | None = None
        """Deadline of the agents' answers; None while no agent is asked."""
        self._last = is_last(context.history, context.settings, context.history.accepted)
        self._closed = False

    def close(self) -> None:
        """The round is over: no more agents are asked."""
        self._closed, self._until = True, None

    def begin(self) -> None:
        """The order of preference of `evaluate = "auto"`, for the part for testing and for that for
        validation: what the coordinator has (data that were named, else the task's), what agents
        have that are enrolled to evaluate, what any agents have."""
        how = self._settings.evaluate
        if how == "agents":
            self._ask_agents(parts_to_ask_for(how, {}, self._last))
        else:
            context, path = self._context, self._made.path
            context.thinking.submit(
                lambda: context.evaluator.evaluate(path, context.settings), self._on_parts
            )

    def on(self, event: RunInput) -> None:
        """Ends when all agents have answered or are gone, or at the deadline."""
        if self._until is None:
            return
        match event:
            case Heard(agent, messages.Evaluated() as answer) if answer.key == self._key:
                self._on_answer(agent, answer)
            case Heard(agent, messages.Failed(what="evaluate", retrying=False) as failed) if (
                failed.key == self._key
            ):
                if failed.kind == "owner" and failed.again_s is None and agent in self._asked:
                    self._context.refused[agent] = self._question(agent)
                self._waiting.pop(agent, None)
            case Gone(agent):
                self._waiting.pop(agent, None)
            case Back(agent) if agent in self._waiting:
                self._invite(agent)
        if not self._waiting or self._context.clock() >= self._until:
            self._until = None
            self._conclude()

    def _on_parts(
        self, parts: dict[str, messages.Sums] | None, error: BaseException | None
    ) -> None:
        if self._closed:
            return
        if parts is None:
            self._done(None, error)
            return
        self._found = parts
        try:
            wanted = parts_to_ask_for(self._settings.evaluate, parts, self._last)
        except RunError as wrong:
            self._done(None, wrong)
        else:
            self._ask_agents(wanted)

    def _ask_agents(self, wanted: Sequence[messages.MeasuredPart]) -> None:
        """For parts that are not here; where none is wanted it is over at once."""
        for part in wanted:
            owners = self._owners(part)
            # Those that are enrolled to evaluate: the coordinator refuses who only says so.
            for agent in [a for a in owners if self._role(a) == "evaluate"] or owners:
                self._asked.setdefault(agent, []).append(part)
        for agent in [a for a in self._asked if self._context.refused.get(a) == self._question(a)]:
            del self._asked[agent]  # its owner would refuse it again
        self._waiting = {agent: set(parts) for agent, parts in self._asked.items()}
        if self._asked:
            self._context.serve(self._key.base, self._made.path)
        self._until = self._context.clock() + self._settings.deadline_s
        for agent in sorted(self._asked):
            self._invite(agent)
            if not self._context.is_here(agent):  # to ask it has shown that it is gone
                self._waiting.pop(agent, None)
        self.on(Tick())

    def _invite(self, agent: str) -> None:
        question = messages.Evaluate(
            key=self._key,
            model=self._context.model(self._key.base, self._made.size),
            task=self._settings.task,
            dataset=self._settings.dataset,
            batch_size=self._settings.test_batch_size,
            parts=tuple(self._asked[agent]),
            brought=self._context.started.begun is not None,
            position=self._positions.get(agent, 0),
            task_args=self._settings.task_args,
        )
        self._context.host.tell(agent, question)

    def _on_answer(self, agent: str, answer: messages.Evaluated) -> None:
        left = self._waiting.get(agent, set())
        if answer.part not in left:
            return
        try:
            if answer.sums is not None:
                sums = verified(answer.sums, self._measures, self._declared(agent, answer.part))
                self._answers.setdefault(answer.part, {})[agent] = sums
        except ValueError as error:
            text = "round=%d agent=%s sent impossible metrics: %s"
            self._context.host.gate.warning(logger, agent, text, self._key.round, agent, error)
        left.discard(answer.part)
        if not left:
            del self._waiting[agent]

    def _conclude(self) -> None:
        if self._measures.states:  # which takes torch
            derive = partial(self._context.evaluator.derive, self._settings)
            self._context.thinking.submit(
                lambda: scored(self._found, self._answers, self._measures, derive), self._on_score
            )
            return
        try:
            score = scored(self._found, self._answers, self._measures)
        except (FlctlError, ArithmeticError, ValueError) as error:
            self._done(None, error)
        else:
            self._done(score, None)

    def _on_score(self, score: Score | None, error: BaseException | None) -> None:
        if not self._closed:
            self._done(score, error)

    def _owners(self, part: messages.MeasuredPart) -> list[str]:
        """Agents that have such a part of the run's data set, the run's task, and private tensors
        that have learnt if there are any, sorted."""
        started = self._context.started
        task, digest = self._settings.task, started.task_digest
        roster = self._context.host.roster
        return [
            name
            for name, member in sorted(roster.members.items())
            if roster.is_free(name)
            and self._declared(name, part) > 0
            and member.hello is not None
            and member.hello.tasks.get(task) == digest
            and (started.private is None or self._positions.get(name, 0) > 0)
        ]

    def _role(self, agent: str) -> str:
        hello = self._context.host.roster.members[agent].hello
        return hello.role if hello is not None else ""

    def _question(self, agent: str) -> dict[messages.MeasuredPart, int]:
        """The parts that it is asked for, with its declared examples."""
        return {part: self._declared(agent, part) for part in self._asked[agent]}

    def _declared(self, agent: str, part: messages.MeasuredPart) -> int:
        member = self._context.host.roster.members[agent]
        return member.examples(self._settings.task, self._settings.dataset, part)
