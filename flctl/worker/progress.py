"""How often a worker reports its steps."""

import time
from collections.abc import Callable
from typing import TypeAlias

from flctl.worker.jobs import Stepped

STEPPED_S = 0.2
"""Shortest time between two progress reports; the last step is always reported."""

Tell: TypeAlias = Callable[[Stepped], None]


class Limited:
    """Reports a step now and then, and always the last one."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._next = 0.0

    def __call__(self, step: int, steps: int, loss: float) -> None:
        now = time.monotonic()
        if now >= self._next or step == steps:
            self._next = now + STEPPED_S
            self._tell(Stepped(step=step, steps=steps, loss=loss))
