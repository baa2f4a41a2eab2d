"""Overlapping windows of one array, which need no memory of their own."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

AT_ONCE = 2**22
"""Numbers in a part of all windows."""


class WindowView:
    """Like an array of shape (n, columns, samples); rows are windows, copied out when needed."""

    def __init__(self, samples: NDArray[np.float32], begin: NDArray[np.int64], length: int) -> None:
        """`samples` [samples, columns], and where each of n windows of this `length` begins."""
        self.samples, self._begin, self._length = samples, begin, length
        self.shape = len(begin), samples.shape[1], length
        self.nbytes = samples.nbytes + begin.nbytes

    def __len__(self) -> int:
        return len(self._begin)

    def __getitem__(self, rows: Any) -> "WindowView":
        return WindowView(self.samples, self._begin[rows], self._length)

    def __array__(self, *_: Any, **__: Any) -> NDArray[np.float32]:
        every = np.lib.stride_tricks.sliding_window_view(self.samples, self._length, axis=0)
        return np.ascontiguousarray(every[self._begin])

    def parts(self) -> Iterator[NDArray[np.float32]]:
        """Copies of some after the other."""
        some = max(1, AT_ONCE // (self.shape[1] * self._length))
        for start in range(0, len(self), some):
            yield np.asarray(self[start : start + some])
