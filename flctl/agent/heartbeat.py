"""The agent's heartbeat: when it is due, how long its echo takes, and when the echo is missing."""

import math
from collections.abc import Callable

from flctl.wire.messages import Heartbeat

SILENT_BEATS = 6
SILENT_S = 60.0
"""After this many heartbeats and this long without an echo, the connection counts as dead."""


class HeartbeatTimer:
    """`make` builds the heartbeat of that sequence number and round-trip time in ms."""

    def __init__(self, interval_s: float, make: Callable[[int, float | None], Heartbeat]) -> None:
        self.interval_s = interval_s
        self._make = make
        self._sequence = 0
        self._sent_at = 0.0
        self._rtt_ms: float | None = None
        self._heard_at = math.inf
        self._due = math.inf

    @property
    def next_at(self) -> float:
        return self._due

    def start(self, now: float, interval_s: float) -> None:
        """The session has begun."""
        self.interval_s = interval_s
        self._heard_at = self._due = now

    def stop(self) -> None:
        self._heard_at = self._due = math.inf

    def hurry(self, now: float) -> None:
        """Send the next heartbeat at once, because its contents have changed."""
        if self._due != math.inf:
            self._due = now

    def beat(self, now: float, send: Callable[[Heartbeat], bool]) -> None:
        if now < self._due:
            return
        if send(self._make(self._sequence, self._rtt_ms)):
            self._sent_at = now
            self._sequence += 1
        self._due = now + self.interval_s

    def on_echo(self, sequence: int, now: float) -> None:
        self._heard_at = now
        if sequence == self._sequence - 1:
            self._rtt_ms = round(1000 * (now - self._sent_at), 2)

    def is_silent(self, now: float) -> bool:
        """Whether no echo has come back for too long."""
        return now - self._heard_at > max(SILENT_S, SILENT_BEATS * self.interval_s)
