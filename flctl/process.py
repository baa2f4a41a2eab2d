"""The process of a command: open standard streams, and an orderly end by a signal."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
AGAIN_S = 0.002
PATIENCE_S = 20.0
"""An import that takes longer is interrupted: it may never end."""
_ASKED_BY_C = {"__hash__", "__eq__", "__getattr__"}
"""Compiled code takes whatever these raise for "there is none" (PyDict_GetItem,
PyObject_HasAttrString), without a word: msgspec does when it first sees a type."""
_steps: list[object] = []
"""The blocks of `undisturbed` that are under way."""


def open_streams() -> None:
    """Open the standard streams that are closed: else the next file would get their number.

    Writing to such a stdout fails, as it should; stderr is where that would be reported.
    """
    if sys.stdin is None:
        sys.stdin = os.fdopen(os.open(os.devnull, os.O_RDONLY), "r")
    if sys.stdout is None:
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_RDONLY), "w")
    if sys.stderr is None:
        sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")


class Interrupted(KeyboardInterrupt):
    """A class of its own because Python 3.11 takes a plain KeyboardInterrupt raised while code is
    compiled, as in the import of a dataclass, for uncaught when it exits, and ends with SIGINT
    instead of the exit code."""


class Ending:
    """SIGTERM and SIGHUP end a command as Ctrl-C does, unless it handles them itself.

    What comes in the midst of an import waits for its end: compiled parts of torch abort the
    process when an exception comes out of Python there. So does what compiled code would swallow,
    and what comes in a block of `undisturbed`. What was lost comes again: Python swallows what is
    raised while it tidies up an object.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        """The one that has ended it, if it was not Ctrl-C."""
        self._due: signal.Signals | None = None
        """Came too early, or was lost."""
        self._patience = 0.0
        self._unraisable = sys.unraisablehook
        sys.unraisablehook = self._on_lost
        signal.signal(signal.SIGALRM, self._again)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._end)
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:  # nohup is respected
                signal.signal(number, self._end)

    def over(self) -> None:
        """The command is done: nothing is left to interrupt."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number in ENDING:
            signal.signal(number, signal.SIG_IGN)

    def _end(self, number: int, frame: FrameType | None) -> None:
        if self._due is None and _has_to_wait(frame):
            self._later(signal.Signals(number))
            return
        self._due = None
        signal.setitimer(signal.ITIMER_REAL, 0)
        if number == signal.SIGINT:
            raise Interrupted
        self.signal = signal.Signals(number)
        for other in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(other, _pass)  # one is enough: what it has begun is not disturbed
        raise Interrupted(f"ended by {self.signal.name}")

    def _later(self, number: signal.Signals) -> None:
        self._due, self._patience = number, time.monotonic() + PATIENCE_S
        signal.setitimer(signal.ITIMER_REAL, AGAIN_S, AGAIN_S)

    def _again(self, _: int, frame: FrameType | None) -> None:
        due = self._due
        if due is None or (_has_to_wait(frame) and time.monotonic() < self._patience):
            return
        signal.setitimer(signal.ITIMER_REAL, 0)
        if self.signal is None:
            signal.raise_signal(due)  # to the handler that is installed by now
        else:
            raise Interrupted(f"ended by {self.signal.name}")

    def _on_lost(self, lost: "sys.UnraisableHookArgs") -> None:
        if isinstance(lost.exc_value, Interrupted):
            self._later(self.signal or signal.SIGINT)
        else:
            self._unraisable(lost)


def _has_to_wait(frame: FrameType | None) -> bool:
    if _steps:
        return True
    while frame is not None:
        code = frame.f_code
        if code.co_filename == "<frozen importlib._bootstrap>" or code.co_name in _ASKED_BY_C:
            return True
        frame = frame.f_back
    return False


def _pass(number: int, frame: FrameType | None) -> None:
    """Not SIG_IGN, which the processes that are started would inherit."""


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """A signal that ends the command waits for the end of the block: a step that lasts a moment,
    and of which half would keep the process from ending."""
    _steps.append(None)
    try:
        yield
    finally:
        _steps.pop()


@contextlib.contextmanager
def interruptible(stop: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C in the block calls `stop` before it interrupts the main thread."""
    before = signal.getsignal(signal.SIGINT)
    if not callable(before) or threading.current_thread() is not threading.main_thread():
        yield
        return

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        signal.signal(number, before)  # the next one is not held up
        stop()
        before(number, frame)

    signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is on_interrupt:
            signal.signal(signal.SIGINT, before)
