"""Runs steps one at a time; steps submitted meanwhile are queued."""

from collections import deque
from collections.abc import Callable
from typing import Any

from flctl.coordinator.background import Background
from flctl.errors import FlctlError

Step = Callable[[], Any]


class Steps:
    """`failed` gets the disk errors of steps."""

    def __init__(self, failed: Callable[[Exception], None]) -> None:
        self._failed = failed
        self._waiting: deque[Step] = deque()
        self._busy = False

    def do(self, step: Step) -> None:
        self._waiting.append(step)
        if self._busy:
            return
        self._busy = True
        try:
            while self._waiting:
                try:
                    self._waiting.popleft()()
                except (FlctlError, OSError) as error:
                    self._failed(error)
        finally:
            self._busy = False

    def after(self, background: Background) -> Background:
        """`background` with its outcomes delivered as steps."""
        return _Stepping(self, background)


class _Stepping:
    def __init__(self, steps: Steps, background: Background) -> None:
        self._steps, self._background = steps, background
        self.finish, self.close = background.finish, background.close

    def submit(self, work: Step, done: Callable[[Any, BaseException | None], None]) -> None:
        self._background.submit(
            work, lambda result, error: self._steps.do(lambda: done(result, error))
        )
