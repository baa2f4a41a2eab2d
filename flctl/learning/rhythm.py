"""RR intervals: how far a beat is from the one before and from the next, and what is usual.

An early beat of the atria looks like a normal one and only comes too soon, so the two intervals
and the usual one are inputs along with the window (de Chazal et al. 2004). All three are in ms; 0
stands for what is not known. The usual interval is of the beats up to this one alone, as a device
knows it when the next beat has come.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

LONGEST_MS = 5000
"""A longer interval is a gap in the record, or of another recording."""
USUAL_OF = 32
"""Beats that the usual interval is the median of: about half a minute."""
AT_ONCE = 65536
ARRAYS = ("rr_prev_ms", "rr_next_ms", "rr_usual_ms")
"""Their names in files."""

Rhythm = NDArray[np.int16]
"""Shape (n, 3): ms since the beat before, until the next one, and usually."""


def unknown(n: int) -> Rhythm:
    return np.zeros((n, 3), np.int16)


def rhythm_of(at_s: NDArray[np.float64]) -> Rhythm:
    """Of all beats of a record, at these seconds, in the order of time."""
    between = np.round(np.diff(at_s) * 1000)
    return with_usual(np.append(0, between), np.append(between, 0))


def with_usual(
    before: ArrayLike, after: ArrayLike, usual: ArrayLike | None = None, *, in_time: bool = True
) -> Rhythm:
    """The rhythm of the beats of one record from ms before and after each; `usual` where a file
    says it. Of beats that are not `in_time` order it is the median of all."""
    found = np.stack([_known(before), _known(after), np.zeros(np.shape(before))], axis=1)
    if usual is not None:
        found[:, 2] = _known(usual)
        return found.astype(np.int16)
    # The pause that follows an early beat makes good for it, so that the mean of the two
    # intervals is nearer to the usual one than each of them.
    both = np.where((found[:, :2] > 0).all(axis=1), found[:, :2].mean(axis=1), np.nan)
    there = both[~np.isnan(both)]
    if len(there) and in_time:
        count = np.cumsum(~np.isnan(both))
        padded = np.concatenate([np.full(USUAL_OF - 1, np.nan), there])
        last = np.lib.stride_tricks.sliding_window_view(padded, USUAL_OF)
        medians = np.concatenate(
            [np.nanmedian(last[at : at + AT_ONCE], axis=1) for at in range(0, len(last), AT_ONCE)]
        )
        found[:, 2] = np.where(count > 0, medians[np.maximum(count - 1, 0)], 0)
    elif len(there):
        found[:, 2] = np.median(there)
    return np.round(found).astype(np.int16)


def _known(ms: ArrayLike) -> NDArray[np.float64]:
    """0 in the place of what is no interval."""
    given = np.nan_to_num(np.asarray(ms, dtype=np.float64))
    return np.where((given > 0) & (given <= LONGEST_MS), np.round(given), 0)
