"""Progress for a person at a terminal during long waits."""

import contextlib
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def reading(what: object) -> Iterator[None]:
    """While data are read, show that, and the progress that their reader logs."""
    from flctl.terminal.output import terminal

    logger, console = logging.getLogger("flctl.learning"), terminal(stderr=True)
    if what is None or not console.is_terminal or logger.isEnabledFor(logging.INFO):
        yield
        return
    with console.status(f"reading {what} …") as status:
        told = _Told(status)
        logger.addHandler(told)
        logger.propagate = False
        logger.setLevel(logging.INFO)
        try:
            yield
        finally:
            logger.setLevel(logging.NOTSET)
            logger.propagate = True
            logger.removeHandler(told)


@contextlib.contextmanager
def waiting(text: str, after_s: float = 0.0) -> Iterator[None]:
    """While something takes long, say what, at a terminal; not before `after_s`."""
    from flctl.terminal.output import terminal

    console = terminal(stderr=True)
    if not console.is_terminal:
        yield
        return
    status = console.status(f"{text} …")
    timer = threading.Timer(after_s, status.start)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        status.stop()


class _Told(logging.Handler):
    """Shows what matters only now, and leaves warnings to the other handlers."""

    def __init__(self, status: Any) -> None:
        super().__init__()
        self._status = status

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno > logging.INFO:
            logging.getLogger().handle(record)
        else:
            self._status.update(f"{record.getMessage()} …")


@contextlib.contextmanager
def progress(lines: bool = True) -> Iterator[Callable[[str], None]]:
    """Shows the current step: in place on a terminal, else as `lines` on stderr."""
    from flctl.terminal.output import terminal

    console = terminal(stderr=True)
    if console.is_terminal:
        with console.status("") as status:
            yield lambda text: status.update(f"{text} …")
        return
    last = ""

    def tell(text: str) -> None:
        nonlocal last
        if lines and text != last:
            last = text
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()

    yield tell
