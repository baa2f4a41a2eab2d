"""Finds out how good a round's model is: on the coordinator's test data, or on the agents'."""

from collections.abc import Callable, Sequence

from flctl.coordinator.run.aggregation import Aggregated
from flctl.coordinator.run.context import RunContext
from flctl.coordinator.run.scoring import missing, scored
from flctl.coordinator.run.survey import Survey
from flctl.core.history import Score
from flctl.core.roster import Member
from flctl.errors import FlctlError, RunError
from flctl.wire.messages import Evaluated, MeasuredPart, Measures, Sums, WorkKey

Done = Callable[[Score | None, BaseException | None], None]


class Evaluating:
    """One evaluation. `done(score, error)` is called once; a score of None: nobody could say."""

    def __init__(self, context: RunContext, key: WorkKey, made: Aggregated, done: Done) -> None:
        self._context, self._key, self._made, self._done = context, key, made, done
        self._survey: Survey | None = None
        self._found: dict[str, Sums] = {}
        """Parts that the coordinator has measured itself."""
        self._closed = False

    @property
    def _measures(self) -> Measures:
        return self._context.started.measures

    def close(self) -> None:
        """The round is over: no agent is asked any more."""
        self._closed, self._survey = True, None

    def begin(self) -> None:
        """The order of preference of `evaluate = "auto"`, for the part for testing and for that for
        validation: what the coordinator has (data that were named, else the task's), what agents
        have that are enrolled to evaluate, what any agents have."""
        how = self._context.settings.evaluate
        if how == "agents":
            self._ask_agents(missing(how, {}))
        else:
            context, path = self._context, self._made.path
            context.thinking.submit(
                lambda: context.evaluator.evaluate(path, context.settings), self._on_parts
            )

    def on_answer(self, agent: str, answer: Evaluated) -> None:
        if self._survey is not None:
            self._finish(self._survey.on_answer(agent, answer, self._declared(agent, answer.part)))

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

    def _on_parts(self, parts: dict[str, Sums] | None, error: BaseException | None) -> None:
        if self._closed:
            return
        if parts is None:
            self._done(None, error)
            return
        self._found = parts
        try:
            wanted = missing(self._context.settings.evaluate, parts)
        except RunError as wrong:
            self._done(None, wrong)
            return
        self._ask_agents(wanted)

    def _ask_agents(self, wanted: Sequence[MeasuredPart]) -> None:
        """For parts that are not here; where none is wanted it is over at once."""
        asked: dict[str, list[MeasuredPart]] = {}
        for part in wanted:
            for agent in self._testers(part) or self._owners(part):
                asked.setdefault(agent, []).append(part)
        if asked:
            self._context.fleet.serve(self._key.base, self._made.path)
        survey = self._survey = Survey(
            self._key,
            self._made.size,
            self._context.settings,
            self._measures,
            asked,
            self._context.fleet.tell,
            self._context.clock(),
            self._context.fleet.gate,
        )
        for agent in asked:
            if not self._context.is_here(agent):  # to ask it has shown that it is gone
                survey.on_gone(agent)
        self.on_time()

    def _finish(self, over: bool) -> None:
        if over and self._survey is not None:
            answers, self._survey = self._survey.answers, None
            self._conclude(lambda: scored(self._found, answers, self._measures))

    def _conclude(self, score: Callable[[], Score | None]) -> None:
        try:
            found = score()
        except (FlctlError, ArithmeticError, ValueError) as error:
            self._done(None, error)
        else:
            self._done(found, None)

    def _testers(self, part: MeasuredPart) -> list[str]:
        """Those that are enrolled to evaluate: the coordinator refuses who only says so."""
        members = self._context.fleet.roster.members
        return [
            agent
            for agent in self._owners(part)
            if (hello := members[agent].hello) is not None and hello.role == "evaluate"
        ]

    def _owners(self, part: MeasuredPart) -> list[str]:
        """Agents that have such a part of the run's data set, and the run's task."""
        task, digest = self._context.settings.task, self._context.started.task_digest
        return [
            m.name
            for m in self._ready()
            if self._declared(m.name, part) > 0
            and m.hello is not None
            and m.hello.tasks.get(task) == digest
        ]

    def _declared(self, agent: str, part: MeasuredPart) -> int:
        settings = self._context.settings
        member = self._context.fleet.roster.members[agent]
        return member.of_part(settings.task, settings.dataset, part)

    def _ready(self) -> list[Member]:
        roster = self._context.fleet.roster
        free = (m for m in roster.members.values() if roster.is_free(m.name))
        return sorted(free, key=lambda m: m.name)
