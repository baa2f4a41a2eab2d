"""Whether a process at work still does anything: one that neither reports a step nor uses
the processor hangs, and may do so for ever."""

import psutil

HANGS_S = 60.0
"""Seconds without a step and without processor time. Work that is merely slow uses some."""
LOOK_S = 5.0


class Watch:
    """On one job of the process `pid`."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._used_s = -1.0
        self._idle_s = 0.0
        self._looked_at: float | None = None

    def told(self) -> None:
        """It has sent a message."""
        self._idle_s = 0.0

    def hangs(self, now: float) -> bool:
        """Call it again and again: it looks every LOOK_S."""
        if self._looked_at is not None and now - self._looked_at < LOOK_S:
            return False
        # A step longer than that says that this process was stopped too, maybe the whole Pi.
        passed = min(now - self._looked_at, 2 * LOOK_S) if self._looked_at is not None else 0.0
        self._looked_at = now
        used = processor_s(self._pid)
        if used is None or used != self._used_s:
            self._used_s, self._idle_s = used or 0.0, 0.0
        else:
            self._idle_s += passed
        return self._idle_s >= HANGS_S


def processor_s(pid: int) -> float | None:
    """Seconds of processor time of a process and all below it; None when it is gone."""
    try:
        process = psutil.Process(pid)
        times = [p.cpu_times() for p in (process, *process.children(recursive=True))]
    except psutil.Error:
        return None
    return float(sum(time.user + time.system for time in times))
