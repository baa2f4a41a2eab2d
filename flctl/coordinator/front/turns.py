"""Queue of questions: a few per key, and the keys take turns.

So one that asks without end keeps neither the loop nor the answers of the others. A question is
open from its arrival until it has been answered.
"""

from collections import Counter, deque
from collections.abc import Callable
from typing import NamedTuple

from flctl.coordinator.front.outbox import Recipient
from flctl.coordinator.store.audit import Line
from flctl.wire.messages import Ask

QUESTIONS = 8
"""Maximum number of open questions per key. A console has one, a script with several keys more."""


class Asked(NamedTuple):
    """A question, and where its answer goes."""

    to: Recipient
    key: str
    source: str
    """The operator's name, for the log."""
    ask: Ask
    origin: str = ""
    """Address of its connection."""
    begun: Line | None = None
    """Its line in the audit file, once the order is being carried out."""


class Turns:
    def __init__(self, may_begin: Callable[[Asked], bool]) -> None:
        self._may_begin = may_begin
        self._waiting: dict[str, deque[Asked]] = {}
        """By owner, whose turn it is first."""
        self._begun: Counter[str] = Counter()

    def take(self, asked: Asked) -> bool:
        """False when its owner has too many open."""
        owner = asked.to.owner
        waiting = self._waiting.get(owner, ())
        if len(waiting) + self._begun[owner] >= QUESTIONS:
            return False
        self._waiting.setdefault(owner, deque()).append(asked)
        return True

    def next(self) -> Asked | None:
        """The next to be answered; `done` is to be called with it."""
        for owner, waiting in list(self._waiting.items()):
            if not self._may_begin(waiting[0]):
                continue
            asked = waiting.popleft()
            del self._waiting[owner]
            if waiting:
                self._waiting[owner] = waiting  # behind the others
            self._begun[owner] += 1
            return asked
        return None

    @property
    def has_next(self) -> bool:
        return any(self._may_begin(waiting[0]) for waiting in self._waiting.values())

    def done(self, asked: Asked) -> None:
        self._begun[asked.to.owner] -= 1
        self._begun += Counter()  # without those that have none
