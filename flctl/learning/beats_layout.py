"""How the rows of a table of beats are laid out, found out from the beats themselves.

Kaggle's heartbeats reach from 0 to 1 and begin at their R peak, with padding behind them; other
tables have the R peak at sample 62, or elsewhere, and are in mV, in units of 1/200 mV, or whatever
a converter gives out. All are brought to the form that other files have: a model that has learnt
from those then knows them. No single number decides, for one in a million is a fault.
"""

import warnings
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flctl.learning.beats import R_AT, UNITS_PER_MV, WINDOW, Array

MOST_MV = 20.0
"""No heartbeat has as much, and in units of 1/200 mV none has as little."""
NEAR = 2
"""Largest distance in samples between an annotation and its R peak."""
NOT_CLEAR, CLEAR, VERY_CLEAR, MANY = 0.4, 0.6, 0.8, 10
"""How high the mean beat must be at its R peak, of the highest that each reaches; elsewhere than
in the two usual places it must be very clear, and seen in many beats."""
SAMPLED = 4000
"""Beats that are looked at."""
PADDED = 5
SLACK = 0.02
AT_ONCE = 4096
SHOWN, ASSUMED = "as the beats show", "assumed, for the beats do not show it"
FAR_FROM_0 = 0.5
"""A baseline this many times the height of a beat away from 0 is that of a converter, where
0 lies outside of most beats."""


@dataclass(frozen=True)
class Layout:
    r_at: int
    """Sample that the R peaks stand at, in the rows as they are."""
    facts: dict[str, str | float]
    note: str
    unit: float
    """Factor from the file's numbers to units of 1/200 mV."""
    offset: float
    """Number that is subtracted before."""
    stretch: bool
    """Whether each beat is first made to reach from 0 to 1."""

    @property
    def changes(self) -> bool:
        return self.r_at != R_AT or self.stretch or self.unit != 1 or self.offset != 0


class _Place(NamedTuple):
    r_at: int
    how: str


def find_layout(x: Array, r_at: int | None = None) -> Layout:
    """Layout of rows of 187 numbers; `r_at` if the owner says where their R peaks are."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of rows without a number
        return _find(x, r_at)


def _find(x: Array, r_at: int | None) -> Layout:
    some = x[:: -(-len(x) // SAMPLED)].astype(np.float64)
    inside = _inside(some)
    some[~inside] = np.nan
    place = _place(some, inside) if r_at is None else _Place(r_at, "as it was said")
    low, high = np.nanmin(some, axis=1), np.nanmax(some, axis=1)
    facts: dict[str, str | float] = {"R peak at sample": f"{place.r_at}, {place.how}"}
    unit, offset, stretch = 1.0, 0.0, False
    if place.r_at == 0:
        unit = UNITS_PER_MV
        stretch = not _from_0_to_1(some)
        facts["unit"] = "0 to 1" + (", each beat made to reach so far" if stretch else "")
    else:
        height, level = float(np.median(high - low)), float(np.nanmedian(some))
        outside = np.median(low) > 0 or np.median(high) < 0
        if height and outside and abs(level) > FAR_FROM_0 * height:
            offset = level
            facts["baseline taken away"] = round(offset, 3)
        small = float(np.median(np.nanmax(np.abs(some - offset), axis=1))) <= MOST_MV
        unit = UNITS_PER_MV if small else 1.0
        facts["unit"] = "mV" if small else "1/200 mV"
    return Layout(place.r_at, facts, _note(place), unit, offset, stretch)


def apply(layout: Layout, x: NDArray[np.float32]) -> None:
    """Bring all rows to the form of other files, in place."""
    if not layout.changes and not np.isnan(x).any():
        return
    for first in range(0, len(x), AT_ONCE):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _apply(layout, x[first : first + AT_ONCE])


def _apply(layout: Layout, rows: NDArray[np.float32]) -> None:
    inside = _inside(rows)
    holes = (np.isnan(rows) & inside).any(axis=1)
    if layout.stretch:
        known = np.where(inside, rows, np.nan)
        low = np.nanmin(known, axis=1, keepdims=True)
        height = np.nanmax(known, axis=1, keepdims=True) - low
        rows -= low
        rows /= np.where(height > 0, height, 1)
    rows -= layout.offset
    if layout.r_at == R_AT:
        inside |= ~np.isnan(rows)  # a row without gaps stays as it is, whatever others have
    if layout.r_at != R_AT or np.isnan(rows).any():
        rows[:] = _moved(rows, inside, layout.r_at)
    rows *= layout.unit
    rows[holes] = np.nan  # who uses them refuses them


def _inside(x: Array) -> NDArray[np.bool_]:
    """What is not padding: numbers that are missing, or all alike, up to the end of a row."""
    padding = np.isnan(x) | (x == x[:, -1:])
    padding = np.logical_and.accumulate(padding[:, ::-1], axis=1)[:, ::-1]
    padding[(padding.sum(axis=1) < 2) & ~np.isnan(x[:, -1])] = False
    padding[:, 0] = False
    return ~padding


def _place(x: Array, inside: NDArray[np.bool_]) -> _Place:
    """Where most beats are far from their own level: the next R peak is not at the same sample in
    all of them, their own is."""
    d = np.nan_to_num(np.abs(x - np.nanmedian(x, axis=1, keepdims=True)))
    top = d.max(axis=1, keepdims=True)
    d = d[top[:, 0] > 0] / top[top[:, 0] > 0]
    if not len(d):
        return _Place(R_AT, ASSUMED)
    wide = np.pad(d, ((0, 0), (NEAR, NEAR)))
    near = np.lib.stride_tricks.sliding_window_view(wide, 2 * NEAR + 1, axis=1).max(axis=2)
    height = near.mean(axis=0)
    height[0] = d[:, : 2 * NEAR + 1].max(axis=1).mean()
    at_0, at_62 = float(height[0]), float(height[R_AT])
    if np.median((~inside).sum(axis=1)) >= PADDED:
        first = at_0 >= CLEAR or at_0 > at_62
    else:  # of a few beats the one before may happen to stand there
        few = len(d) < MANY and not _from_0_to_1(x)
        first = not few and at_0 >= CLEAR and at_0 > at_62 + 0.1
    if first:
        return _Place(0, SHOWN)
    if at_62 >= CLEAR:
        return _Place(R_AT, SHOWN)
    peak = int(d.mean(axis=0).argmax())
    if len(d) >= MANY and height[peak] >= VERY_CLEAR and max(at_0, at_62) < NOT_CLEAR:
        return _Place(peak, SHOWN)
    return _Place(R_AT, ASSUMED)


def _from_0_to_1(x: Array) -> bool:
    low, high = np.median(np.nanmin(x, axis=1)), np.median(np.nanmax(x, axis=1))
    return bool(abs(low) <= SLACK and abs(high - 1) <= SLACK)


def _note(place: _Place) -> str:
    if place.r_at == 0:
        return "the beats begin at their R peak, as Kaggle's do: what came before it is not known"
    if place.how == ASSUMED:
        return (
            "where the R peaks stand cannot be told from these beats: sample 62 is assumed; "
            "another place is named with --r-at"
        )
    if place.r_at != R_AT:
        return f"the R peaks stand at sample {place.r_at} and were moved to {R_AT}"
    return ""


def _moved(x: Array, inside: NDArray[np.bool_], r_at: int) -> Array:
    """`x` with the R peak at sample 62, level where nothing is known."""
    level = np.nanmedian(np.where(inside, x, np.nan), axis=1, keepdims=True)
    known = np.where(inside, x, level)
    found = np.repeat(level, WINDOW, axis=1).astype(np.float32)
    by = R_AT - r_at
    if by >= 0:
        found[:, by:] = known[:, : WINDOW - by]
    else:
        found[:, :by] = known[:, -by:]
    return found
