"""Answers an operator's question about the past: a bounded number of points, with gaps marked."""

import math
import sqlite3
import time
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any

from flctl.coordinator.trends.database import FILE, QUARTER, read
from flctl.coordinator.trends.points import COUNTERS
from flctl.errors import StateError, one_line
from flctl.wire.questions import ReadHistory

MINUTE_S = 60.0
DAY_S = 86400.0
Point = tuple[float, float | None]


def look_back(
    state: Path, asked: ReadHistory, wall_clock: Callable[[], float] = time.time
) -> dict[str, Any]:
    """Raises StateError."""
    now, minutes = wall_clock(), asked.since_s <= DAY_S
    base_s = MINUTE_S if minutes else QUARTER * MINUTE_S
    step_s = base_s * max(1, math.ceil(asked.since_s / base_s / asked.points))
    try:
        found = read(state / FILE, asked.agent, asked.figure, now - asked.since_s, now + 1, minutes)
    except sqlite3.Error as error:
        raise StateError(f"{state / FILE}: cannot be read: {one_line(error)}") from error
    if step_s > MINUTE_S:
        found = _merged(found, step_s, asked.figure in COUNTERS)
    return {
        "agent": asked.agent,
        "figure": asked.figure,
        "step_s": step_s,
        "points": _with_gaps(found, step_s),
    }


def _merged(points: list[Point], step_s: float, adds_up: bool) -> list[Point]:
    merged: list[Point] = []
    for number, group in groupby(points, lambda point: point[0] // step_s):
        values = [value for _, value in group if value is not None]
        value = (math.fsum(values) if adds_up else fmean(values)) if values else None
        merged.append(((number + 1) * step_s, value))
    return merged


def _with_gaps(points: list[Point], step_s: float) -> list[Point]:
    """A point without a value where some are missing, so that no line is drawn across."""
    found: list[Point] = []
    for at, value in points:
        if found and at - found[-1][0] > 1.5 * step_s:
            found.append((found[-1][0] + step_s, None))
        found.append((at, value))
    return found
