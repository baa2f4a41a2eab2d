"""Finds out which peer's connection was closed: ZeroMQ only reports that one was.

Every agent is pinged; one that cannot be reached is gone. Any stranger, such as a port scanner,
may connect and hang up, so probes are rationed: the fleet pays for them in mobile data.
"""

from collections.abc import Callable

AGAIN = 3
"""Probes per loss: ZeroMQ knows which peer it was only some milliseconds later."""
AT_ONCE = 5
"""Losses in a row that are probed immediately; after that, one every SPARE_S."""
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
