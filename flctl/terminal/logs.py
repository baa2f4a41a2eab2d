"""Logging of the command line: to stderr, with time, level, file and line."""

import logging
import sys
from typing import TextIO

from flctl.errors import printable

FORMAT = "%(asctime)s %(levelname)s %(filename)s(l:%(lineno)d) - %(message)s"


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to what `sys.stderr` is at that moment: a live view takes its place for a while."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, _: TextIO) -> None:
        raise AttributeError("the stream is always sys.stderr")


class _OneLine(logging.Formatter):
    """Text from a stranger can neither start a line of its own nor control the terminal."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        return printable(super().formatMessage(record), kept="\t")


def set_up(verbose: bool, quiet: bool = False) -> None:
    """DEBUG when `verbose`; else WARNING when `quiet`, as for commands with other output, in the
    form of their own messages."""
    handler = _Stderr()
    handler.setFormatter(_OneLine("flctl: %(message)s" if quiet and not verbose else FORMAT))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)
    # Failures of an embedded run are reported by its events.
    told = logging.CRITICAL if quiet and not verbose else logging.NOTSET
    logging.getLogger("flctl.coordinator").setLevel(told)
    if verbose:
        # Their debug output is about themselves, not about the fleet.
        for name in ("asyncio", "matplotlib", "PIL"):
            logging.getLogger(name).setLevel(logging.INFO)
