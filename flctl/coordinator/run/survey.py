"""Evaluation on the agents: asks those that hold data out, and waits with a deadline."""

import logging
from collections.abc import Callable, Mapping, Sequence

from flctl.core.metrics import verified
from flctl.settings import RunSettings
from flctl.transport.gate import Gate
from flctl.wire.messages import (
    Coded,
    Evaluate,
    Evaluated,
    MeasuredPart,
    Measures,
    Message,
    Model,
    Sums,
    WorkKey,
)

logger = logging.getLogger(__name__)


class Survey:
    """Asks each agent for the parts that are `wanted` of it.

    Each method returns True when it is over: all have answered, are gone, or it is late.
    """

    def __init__(
        self,
        key: WorkKey,
        size: int,
        settings: RunSettings,
        measures: Measures,
        wanted: Mapping[str, Sequence[MeasuredPart]],
        tell: Callable[[str, Message], bool],
        now: float,
        gate: Gate,
    ) -> None:
        self.key = key
        self.answers: dict[MeasuredPart, dict[str, Sums]] = {}
        self._waiting = {agent: set(parts) for agent, parts in wanted.items()}
        self._deadline = now + settings.deadline_s
        self._tell, self._gate, self._measures = tell, gate, measures
        self._questions = {
            agent: Evaluate(
                key=key,
                model=Model(shared=Coded(blob=key.base, size=size)),
                task=settings.task,
                dataset=settings.dataset,
                batch_size=settings.test_batch_size,
                parts=tuple(parts),
            )
            for agent, parts in wanted.items()
        }
        for agent in sorted(self._waiting):
            self.invite(agent)

    def invite(self, agent: str) -> None:
        if agent in self._waiting:
            self._tell(agent, self._questions[agent])

    def on_answer(self, agent: str, answer: Evaluated, declared: int) -> bool:
        """`declared` are the examples that it says to have of that part."""
        left = self._waiting.get(agent, set())
        if answer.part in left and answer.key == self.key:
            try:
                if answer.sums is not None:
                    sums = verified(answer.sums, self._measures, declared)
                    self.answers.setdefault(answer.part, {})[agent] = sums
            except ValueError as error:
                text = "round=%d agent=%s sent impossible metrics: %s"
                self._gate.warning(logger, agent, text, self.key.round, agent, error)
            left.discard(answer.part)
            if not left:
                del self._waiting[agent]
        return not self._waiting

    def on_gone(self, agent: str) -> bool:
        self._waiting.pop(agent, None)
        return not self._waiting

    def on_time(self, now: float) -> bool:
        return not self._waiting or now >= self._deadline
