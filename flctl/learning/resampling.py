"""Another sampling rate, by a polyphase filter in NumPy.

To the last bit what scipy.signal.resample_poly gives, but for the last bits of the filter itself.
Importing SciPy's takes 75 MB, a quarter of what a Pi has to spare for reading a day's record.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

HALF = 10
"""Half the length of the filter, in samples of the slower rate."""
AT_ONCE = 65536
"""Samples, so that they stay in the processor's cache."""
BETA = 5.0
"""β of the Kaiser window."""


def resample(x: NDArray[np.float64], up: int, down: int) -> NDArray[np.float64]:
    """`up` samples for every `down` of `x`; before its first and after its last one it is 0."""
    if up == down:
        return x.copy()
    taps, half = _taps(up, down), HALF * max(up, down)
    length, behind = -(-len(x) * up // down), len(taps) - 1
    padded = np.pad(x, (behind, half // up + 1))
    y = np.zeros(length)
    for first in range(0, length, AT_ONCE):
        part = y[first : first + AT_ONCE]
        newest, phase = np.divmod(np.arange(first, first + len(part)) * down + half, up)
        for tap in range(behind, -1, -1):
            part += padded[newest + (behind - tap)] * taps[tap][phase]
    return y


@lru_cache(maxsize=4)
def _taps(up: int, down: int) -> NDArray[np.float64]:
    """Taps of a windowed sinc that passes what both rates can hold: for each of `up` phases those
    of one output sample, from that of the newest input sample on, shape (taps, up)."""
    slow = max(up, down)
    at = np.arange(2 * HALF * slow + 1) - HALF * slow
    h = np.sinc(at / slow) * np.kaiser(len(at), BETA)
    h *= up / h.sum()
    return np.append(h, np.zeros(-len(h) % up)).reshape(-1, up)
