"""Data that change while they are used: read again when their files have changed."""

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Generic, TypeVar

from flctl.errors import DataError, FlctlError, OtherData, TaskError
from flctl.learning.examples import Examples
from flctl.learning.stamps import Stamp, newest_ns, stamp_of

logger = logging.getLogger(__name__)

FRESH_S = 10.0
"""A file changed this recently may be half-written: reading is tried again …"""
TRIES, PAUSE_S = 6, 0.5
"""… this often, this many seconds apart."""
SETTLE_S = 60.0
"""Seconds that data read earlier stand in for files that cannot be read at the moment."""
KEPT_BYTES = 256 * 1024**2
"""Above this size old data are dropped before new are read: memory may not hold both."""

T = TypeVar("T", bound=Examples | Mapping[str, Examples] | list[Examples] | None)


class Reading(Generic[T]):
    """What `read` makes of the file or folder `path`, None for what does not change.

    A camera may be writing just now. What cannot be read is tried again, and for a while what was
    read before stands in for it, unless a file of that is gone since: who removes data does not
    want them used.
    """

    def __init__(
        self,
        path: Path | None,
        read: Callable[[], T],
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self._path, self._read = path, read
        self._clock, self._wall_clock, self._wait = clock, wall_clock, wait
        self._kept: tuple[Stamp, T] | None = None
        self._failed: tuple[Stamp, float] | None = None

    def get(self) -> T:
        """As it is now. Raises DataError, TaskError."""
        stamp = stamp_of(self._path)
        kept = self._kept
        if kept is not None and kept[0] == stamp:
            return kept[1]
        if kept is not None and _bytes(kept[1]) > KEPT_BYTES:
            kept = self._kept = None
        try:
            self._kept = stamp, self._settled(stamp)
        except (DataError, TaskError) as error:
            if kept is None or not self._may_stand_in(kept[0], stamp):
                self._kept = None
                raise
            logger.warning("%s; until that is whole, the data from before it are used", error)
            return kept[1]
        self._failed = None
        return self._kept[1]

    def _settled(self, stamp: Stamp) -> T:
        """Read, and try again while the file may still be being written."""
        for left in reversed(range(TRIES)):
            try:
                return self._read()
            except OtherData:
                raise
            except FlctlError:
                age_s = abs(self._wall_clock() - newest_ns(stamp) / 1e9)
                if not left or age_s > FRESH_S:
                    raise
                self._wait(PAUSE_S)
                stamp = stamp_of(self._path)
        raise AssertionError("TRIES is at least 1")

    def _may_stand_in(self, before: Stamp, stamp: Stamp) -> bool:
        now = self._clock()
        if self._failed is None or self._failed[0] != stamp:
            self._failed = stamp, now
        return before.keys() <= stamp.keys() and now - self._failed[1] < SETTLE_S


def _bytes(value: Examples | Mapping[str, Examples] | list[Examples] | None) -> int:
    parts = value.values() if isinstance(value, Mapping) else value
    if isinstance(parts, Examples) or parts is None:
        return 0 if parts is None else parts.nbytes
    return sum(part.nbytes for part in parts)
