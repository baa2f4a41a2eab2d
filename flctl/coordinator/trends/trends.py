"""Notes what every agent is like, once a minute, without ever holding up a round.

The loop only adds numbers up. The database is a thread's: one minute at a time, and a minute that
comes while the one before is still being written is dropped. Nothing depends on it.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flctl.coordinator.background import Background, DaemonBackground
from flctl.coordinator.trends.database import FILE, Points, PointsBroken
from flctl.coordinator.trends.points import Minute, Sampler
from flctl.core.roster import Roster
from flctl.errors import one_line
from flctl.transport.gate import Gate

logger = logging.getLogger(__name__)

SOURCE = "(history)"
SAMPLE_S, MINUTE_S = 10.0, 60.0
SET_S = 2.0
"""A clock that has moved by more was set; the points of this life are then dated again."""

_STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""A Mac has only the second, which goes on there while the machine sleeps."""


def steady() -> float:
    """Seconds that no setting of the clock changes, and that go on while the machine sleeps."""
    return time.clock_gettime(_STEADY)


class Trends:
    def __init__(
        self,
        state: Path,
        roster: Roster,
        run: Callable[[], dict[str, Any] | None],
        gate: Gate,
        wall_clock: Callable[[], float] = time.time,
        steady_clock: Callable[[], float] = steady,
        background: Callable[[str], Background] = DaemonBackground,
    ) -> None:
        self._roster, self._run, self._gate = roster, run, gate
        self._wall, self._steady = wall_clock, steady_clock
        self._points, self._sampler = Points(state / FILE), Sampler()
        self._disk, self._busy = background("history"), False
        self._sample_at = self._minute_at = float("-inf")
        self._offset = wall_clock() - steady_clock()
        """Of the wall clock, as it was believed last."""
        self._shift_s = 0.0
        """By how much points in the file have to be dated later."""
        self._fault = ""

    def on_time(self, now: float) -> None:
        """To be called several times a second. Raises nothing."""
        try:
            self._disk.finish()
            if now >= self._sample_at:
                self._sample_at = now + SAMPLE_S
                self._sampler.sample(self._roster.members.values())
            if self._minute_at == float("-inf"):
                self._minute_at = now + MINUTE_S
            elif now >= self._minute_at:
                late = now - self._minute_at > MINUTE_S
                self._minute_at = (now if late else self._minute_at) + MINUTE_S
                self._note()
        except Exception as bug:  # whatever fails here, rounds continue
            self._gate.bug(logger, SOURCE, bug, "a minute of the history was lost")

    def close(self) -> None:
        self._disk.submit(self._points.close, lambda *_: None)
        self._disk.finish()
        self._disk.close()

    def _note(self) -> None:
        offset = self._wall() - self._steady()
        if abs(offset - self._offset) > SET_S:
            self._shift_s += offset - self._offset
            self._offset = offset
        run, rows = self._run(), self._sampler.rows()
        if self._busy:
            self._dropped("the disk has not written the last one yet")
            return
        self._busy = True
        minute = Minute(
            self._steady() + self._offset, self._shift_s, run["round"] if run else None, rows
        )

        def done(aside: str | None, error: BaseException | None) -> None:
            self._busy = False
            if error is not None:
                self._dropped(one_line(error))
                return
            self._shift_s -= minute.shift_s
            if aside:
                self._gate.warning(logger, SOURCE, "the history was not usable: %s", aside)
            if self._fault:
                self._gate.info(logger, SOURCE, "the history is written again")
            self._fault = ""

        self._disk.submit(lambda: self._write(minute), done)

    def _write(self, minute: Minute) -> str:
        """What was set aside for it, and why; mostly nothing. Raises sqlite3.Error, OSError."""
        try:
            self._points.add(minute)
        except PointsBroken as error:
            aside = self._points.set_aside()
            self._points.add(minute)
            return f"{one_line(error)}; moved to {aside.name}; a new one is started"
        return ""

    def _dropped(self, why: str) -> None:
        if not self._fault:
            text = "points of the history are dropped: %s"
            self._gate.warning(logger, SOURCE, text, why)
        self._fault = why
