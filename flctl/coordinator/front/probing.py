"""Finds out whose connection was closed, when all that is known is that one was.

Everybody is sent a ping: to whom it cannot be sent is gone. Anybody may connect and hang
up, a port scanner for one; the fleet, on its mobile connections, must not pay for that.
"""

from collections.abc import Callable

AGAIN = 3
"""ZeroMQ knows whose connection it was only some milliseconds later."""
AT_ONCE = 5
"""So many losses in a row are looked into at once; after that one every SPARE_S."""
SPARE_S = 5.0


class Probing:
    """`probe_all` pings every agent."""

    def __init__(self, probe_all: Callable[[], None]) -> None:
        self._probe_all = probe_all
        self._left = AT_ONCE
        self._earned_at = 0.0
        self._due = False
        self._again = 0

    def on_lost(self, now: float) -> None:
        """Some connection was closed."""
        self._due = True
        self._begin(now)

    def on_time(self, now: float) -> None:
        """To be called every quarter of a second."""
        if self._again:
            self._again -= 1
            self._probe_all()
        self._begin(now)

    def _begin(self, now: float) -> None:
        earned = int((now - self._earned_at) / SPARE_S)
        if earned:
            self._left = min(AT_ONCE, self._left + earned)
            self._earned_at = now
        if self._due and self._left:
            self._due = False
            self._left -= 1
            self._again = AGAIN
            self._probe_all()
