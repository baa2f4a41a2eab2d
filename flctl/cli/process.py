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


class Ending:
    """SIGTERM and SIGHUP end a command as Ctrl-C does, unless it deals with them itself."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        """The one that has ended it."""
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:  # nohup is respected
                signal.signal(number, self._end)

    def _end(self, number: int, _: FrameType | None) -> NoReturn:
        self.signal = signal.Signals(number)
        for other in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(other, _pass)  # one is enough: what it has begun is not disturbed
        raise KeyboardInterrupt(f"ended by {self.signal.name}")


def _pass(number: int, frame: FrameType | None) -> None:
    """Not SIG_IGN, which the processes that are started would inherit."""
