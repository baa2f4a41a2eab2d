"""A minute of an agent as a point: averages of what its heartbeats have said. Pure."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from flctl.core.roster import Member
from flctl.wire.questions import Figure

COLUMNS: dict[Figure, float] = {
    "temperature_c": 0.1,
    "throttled": 0.001,
    "memory_used_bytes": 1024.0,
    "disk_free_bytes": 1024.0 * 1024,
    "rtt_ms": 0.01,
    "written_bytes": 1024.0,
    "sent_bytes": 1024.0,
    "state": 0.001,
}
"""The figures of an agent, in their order in a row, and the unit that a whole number counts."""
COUNTERS = ("written_bytes", "sent_bytes")
"""An agent counts them from its start; a point has the difference."""
MOST = 2**53
AGENTS = 2000
"""Agents that have points; further ones have none."""

Row = tuple[str, tuple[int | None, ...]]
"""Name of an agent, and its figures."""


class Minute(NamedTuple):
    at: float
    """Wall time of its end."""
    shift_s: float
    """How much later the clock says now that the points before were, back to this life's first."""
    round: int | None
    """Committed rounds of the run in progress."""
    rows: list[Row]


class _Mean:
    __slots__ = ("count", "total")

    def __init__(self) -> None:
        self.total, self.count = 0.0, 0

    def add(self, value: float | None) -> None:
        if value is not None:
            self.total += value
            self.count += 1

    @property
    def mean(self) -> float | None:
        return self.total / self.count if self.count else None


class Sampler:
    """Collects samples until a minute is over."""

    def __init__(self) -> None:
        self._means: dict[str, dict[Figure, _Mean]] = {}
        self._counts: dict[str, dict[str, int]] = {}
        """Counters at the last point."""
        self._now: dict[str, dict[str, int]] = {}

    def sample(self, members: Iterable[Member]) -> None:
        for member in members:
            if member.name not in self._means and len(self._means) >= AGENTS:
                continue
            means = self._means.setdefault(member.name, {each: _Mean() for each in COLUMNS})
            means["state"].add(float(member.connected))
            told = member.telemetry if member.connected else None
            if told is None:
                continue
            means["temperature_c"].add(told.temperature_c)
            means["memory_used_bytes"].add(told.memory_used_bytes)
            means["disk_free_bytes"].add(told.disk_free_bytes)
            means["rtt_ms"].add(member.rtt_ms)
            if told.throttled is not None:
                means["throttled"].add(float(bool(told.throttled)))
            self._now[member.name] = {each: getattr(told, each) for each in COUNTERS}

    def rows(self) -> list[Row]:
        """Points of the time since the last call."""
        found = [(name, tuple(self._figures(name, means))) for name, means in self._means.items()]
        self._counts, self._now, self._means = self._now, {}, {}
        return found

    def _figures(self, name: str, means: dict[Figure, _Mean]) -> Iterable[int | None]:
        for figure, unit in COLUMNS.items():
            value: Any = means[figure].mean
            if figure in COUNTERS:
                value = self._difference(name, figure)
            yield None if value is None else max(-MOST, min(MOST, round(value / unit)))

    def _difference(self, name: str, counter: str) -> int | None:
        """Since the last point; one that has begun again has counted from zero."""
        now, before = self._now.get(name), self._counts.get(name)
        if now is None or before is None:
            return None
        grown = now[counter] - before[counter]
        return grown if grown >= 0 else now[counter]
