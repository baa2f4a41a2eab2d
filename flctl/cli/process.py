"""What the command line needs of its process: open streams, and an orderly end by a signal."""

import os
import signal
import sys
from types import FrameType
from typing import NoReturn


def open_streams() -> None:
    """Open the standard streams that are closed: else the next file would get their number.

    What is written to such a stdout fails, as it should; stderr is where that would be told.
    """
    if sys.stdin is None:
        sys.stdin = os.fdopen(os.open(os.devnull, os.O_RDONLY), "r")
    if sys.stdout is None:
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_RDONLY), "w")
    if sys.stderr is None:
        sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")


class Interrupted(KeyboardInterrupt):
    """Of a class of its own: of a plain one that comes while code is made from text, as in the
    import of a dataclass, Python 3.11 believes at its exit that nobody has caught it, and ends
    with SIGINT instead of the exit code."""


class Ending:
    """SIGTERM and SIGHUP end a command as Ctrl-C does, unless it deals with them itself."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        """The one that has ended it."""
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, _interrupt)
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:  # nohup is respected
                signal.signal(number, self._end)

    def _end(self, number: int, _: FrameType | None) -> NoReturn:
        self.signal = signal.Signals(number)
        for other in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(other, _pass)  # one is enough: what it has begun is not disturbed
        raise Interrupted(f"ended by {self.signal.name}")


def _interrupt(_: int, __: FrameType | None) -> NoReturn:
    raise Interrupted


def _pass(number: int, frame: FrameType | None) -> None:
    """Not SIG_IGN, which the processes that are started would inherit."""
