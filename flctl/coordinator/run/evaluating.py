"""Finds out how good a round's model is: on the coordinator's test data, or on the agents'."""

import logging
from collections.abc import Callable

from flctl.coordinator.run.aggregation import Aggregated
from flctl.coordinator.run.context import RunContext
from flctl.coordinator.run.decisions import who_measures
from flctl.coordinator.run.scoring import by_agents, by_coordinator, outvoted
from flctl.coordinator.run.survey import Survey
from flctl.core.history import Score
from flctl.core.roster import Member
from flctl.errors import FlctlError
from flctl.wire.messages import Evaluated, Metrics, WorkKey

logger = logging.getLogger(__name__)

Done = Callable[[Score | None, BaseException | None], None]


class Evaluating:
    """One evaluation. `done(score, error)` is called once; a score of None: nobody could say."""

    def __init__(self, context: RunContext, key: WorkKey, made: Aggregated, done: Done) -> None:
        self._context, self._key, self._made, self._done = context, key, made, done
        self._survey: Survey | None = None
        self._closed = False

    def close(self) -> None:
        """The round is over: no agent is asked any more."""
        self._closed, self._survey = True, None

    def begin(self) -> None:
        """The order of preference of `evaluate = "auto"`: the coordinator's own test data (those
        that were named, else the task's), agents that are enrolled to evaluate, what agents hold
        out."""
        match who_measures(self._context.settings):
            case "none":
                self._done(None, None)
            case "agents":
                self._ask_agents()
            case "coordinator":
                context, path = self._context, self._made.path
                context.thinking.submit(
                    lambda: context.evaluator.evaluate(path, context.settings), self._on_parts
                )

    def on_answer(self, agent: str, answer: Evaluated) -> None:
        if self._survey is not None:
            self._finish(self._survey.on_answer(agent, answer, self._held_out(agent)))

    def on_failed(self, agent: str, key: WorkKey) -> None:
        """It could not evaluate the model of `key`, which may be that of an earlier round."""
        if key == self._key:
            self.on_gone(agent)

    def on_here(self, agent: str) -> None:
        if self._survey is not None:
            self._survey.invite(agent)

    def on_gone(self, agent: str) -> None:
        if self._survey is not None:
            self._finish(self._survey.on_gone(agent))

    def on_time(self) -> None:
        if self._survey is not None:
            self._finish(self._survey.on_time(self._context.clock()))

    def _on_parts(self, parts: dict[str, Metrics] | None, error: BaseException | None) -> None:
        if self._closed:
            return
        if parts is None:
            self._done(None, error)
        elif who_measures(self._context.settings, bool(parts)) == "agents":
            self._ask_agents()
        else:
            self._conclude(lambda: by_coordinator(parts))

    def _ask_agents(self) -> None:
        self._context.fleet.serve(self._key.base, self._made.path)
        agents = self._testers() or self._owners()
        survey = self._survey = Survey(
            self._key,
            self._made.size,
            self._context.settings,
            agents,
            self._context.fleet.tell,
            self._context.clock(),
            self._context.fleet.gate,
        )
        for agent in agents:
            if not self._context.is_here(agent):  # to ask it has shown that it is gone
                survey.on_gone(agent)
        self.on_time()

    def _finish(self, over: bool) -> None:
        if over and self._survey is not None:
            answers, self._survey = self._survey.answers, None
            for agent in outvoted(answers):
                text = "agent=%s its metrics are left out: other agents have other classes"
                self._context.fleet.gate.warning(logger, agent, text, agent)
            self._conclude(lambda: by_agents(answers))

    def _conclude(self, score: Callable[[], Score | None]) -> None:
        try:
            found = score()
        except (FlctlError, ArithmeticError, ValueError) as error:
            self._done(None, error)
        else:
            self._done(found, None)

    def _testers(self) -> list[str]:
        """Those that are enrolled to evaluate: the coordinator refuses who only says so."""
        members = self._context.fleet.roster.members
        return [
            agent
            for agent in self._owners()
            if (hello := members[agent].hello) is not None and hello.role == "evaluate"
        ]

    def _owners(self) -> list[str]:
        """Agents that hold some of the run's data set out, and have the run's task."""
        task, digest = self._context.settings.task, self._context.started.task_digest
        return [
            m.name
            for m in self._ready()
            if self._held_out(m.name) > 0
            and m.hello is not None
            and m.hello.tasks.get(task) == digest
        ]

    def _held_out(self, agent: str) -> int:
        settings = self._context.settings
        member = self._context.fleet.roster.members[agent]
        return member.held_out(settings.task, settings.dataset)

    def _ready(self) -> list[Member]:
        roster = self._context.fleet.roster
        free = (m for m in roster.members.values() if roster.is_free(m.name))
        return sorted(free, key=lambda m: m.name)
