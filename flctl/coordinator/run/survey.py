"""Evaluation on the agents: asks those that hold data out, and waits with a deadline."""

import logging
from collections.abc import Callable, Sequence

from flctl.core.metrics import verified
from flctl.settings import RunSettings
from flctl.transport.gate import Gate
from flctl.wire.messages import Coded, Evaluate, Evaluated, Message, Metrics, Model, WorkKey

logger = logging.getLogger(__name__)


class Survey:
    """Asks `agents`.

    Each method returns True when it is over: all have answered, are gone, or it is late.
    """

    def __init__(
        self,
        key: WorkKey,
        size: int,
        settings: RunSettings,
        agents: Sequence[str],
        tell: Callable[[str, Message], bool],
        now: float,
        gate: Gate,
    ) -> None:
        self.key = key
        self.answers: dict[str, Metrics] = {}
        self._waiting = set(agents)
        self._deadline = now + settings.deadline_s
        self._tell, self._gate = tell, gate
        self._question = Evaluate(
            key=key,
            model=Model(shared=Coded(blob=key.base, size=size)),
            task=settings.task,
            dataset=settings.dataset,
            batch_size=settings.test_batch_size,
        )
        for agent in sorted(self._waiting):
            self.invite(agent)

    def invite(self, agent: str) -> None:
        if agent in self._waiting:
            self._tell(agent, self._question)

    def on_answer(self, agent: str, answer: Evaluated, declared: int) -> bool:
        """`declared` are the examples that it says to hold out."""
        if agent in self._waiting and answer.key == self.key:
            try:
                self.answers[agent] = verified(answer.metrics, declared)
            except ValueError as error:
                text = "round=%d agent=%s sent impossible metrics: %s"
                self._gate.warning(logger, agent, text, self.key.round, agent, error)
            self._waiting.discard(agent)
        return not self._waiting

    def on_gone(self, agent: str) -> bool:
        self._waiting.discard(agent)
        return not self._waiting

    def on_time(self, now: float) -> bool:
        return not self._waiting or now >= self._deadline
