"""Rate limiter for log lines that a peer can trigger, per source.

A source is a name in the list of keys; all unlisted keys are one source, STRANGER. Every line that
a message, a question, a connection or a handshake causes goes through here, so that peers cannot
fill the coordinator's disk.
"""

import logging
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from flctl.errors import one_line
from flctl.transport.allowance import Allowance

LINES = 10
"""Within a minute, from each source, the count of those left out included. A minute begins with a
line, so that any sixty seconds have up to twice as many."""
STRANGER = "(stranger)"
"""The source of all that comes from keys without a name; no name has parentheses."""
FRAMES = 5
"""Innermost frames of a traceback that are logged, on one line."""

logger = logging.getLogger(__name__)


class Gate:
    """May be used from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._lock = threading.Lock()
        self._lines = Allowance(LINES, clock)

    def passes(self, source: str) -> bool:
        """Whether another line about `source` may be written; it counts as written."""
        with self._lock:
            left_out = self._lines.spend(source)
            if left_out:
                self._lines.spend(source)
        if left_out:
            logger.warning("source=%s %d more lines about it were left out", source, left_out)
        return left_out is not None

    def info(self, log: logging.Logger, source: str, text: str, *args: object) -> None:
        if self.passes(source):
            log.info(text, *args, stacklevel=2)

    def warning(self, log: logging.Logger, source: str, text: str, *args: object) -> None:
        if self.passes(source):
            log.warning(text, *args, stacklevel=2)

    def error(self, log: logging.Logger, source: str, text: str, *args: object) -> None:
        if self.passes(source):
            log.error(text, *args, stacklevel=2)

    def bug(self, log: logging.Logger, source: str, error: Exception, what: str) -> None:
        """A failure of our own that `source` has brought about: its traceback in one line."""
        if self.passes(source):
            log.error(
                "%s: %s: %s at %s", what, type(error).__name__, one_line(error), _where(error),
                stacklevel=2,
            )  # fmt: skip
            log.debug("%s", what, exc_info=error)


def _where(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)[-FRAMES:]
    return " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(frames))
