"""One operator who watches a run: its past, then what happens, each event once."""

from collections import deque
from collections.abc import Callable
from typing import Any

from flctl.coordinator.front.lookups import PAST_EVENTS
from flctl.coordinator.front.outbox import Outbox
from flctl.coordinator.front.turns import Asked
from flctl.coordinator.store.journal import HEAD

Event = dict[str, Any]


class Watcher:
    """To be called with every event that happens, from before its past is read."""

    def __init__(
        self,
        operators: Outbox,
        asked: Asked,
        in_progress: Callable[[], str | None],
        may_read: Callable[[str], bool],
    ) -> None:
        """`in_progress` names the run that events are of; `may_read` is asked about the key."""
        self.asked = asked
        self._operators, self._in_progress, self._may_read = operators, in_progress, may_read
        self._run: str | None = None
        self._early: deque[tuple[str | None, Event]] = deque(maxlen=PAST_EVENTS)
        """What happened while the past was being read."""

    def begin(self, run: str, past: list[Event]) -> None:
        self._run = run
        for event in past:
            self._tell(event)
        known = [_bare(event) for event in past]
        for of, event in self._early:
            if _bare(event) not in known:
                self._tell_of(of, event)
        self._early.clear()

    def __call__(self, event: Event) -> None:
        of = self._in_progress()
        if self._run is None:
            self._early.append((of, event))
        else:
            self._tell_of(of, event)

    def _tell_of(self, of: str | None, event: Event) -> None:
        if of in (None, self._run):  # None: of the fleet, while there is no run
            self._tell(event)

    def _tell(self, event: Event) -> None:
        to = self.asked.to
        if self._may_read(self.asked.key):
            self._operators.event(to, self.asked.ask.id, event)
        else:
            self._operators.drop(to.peer)  # revoked meanwhile


def _bare(event: Event) -> Event:
    """Without the chain, which is not known yet when an event happens."""
    return {key: value for key, value in event.items() if key != HEAD}
