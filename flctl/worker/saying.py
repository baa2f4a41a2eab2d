"""What a worker process writes to standard error: passed on to ours, and kept line by line.

So the log that operators read has a worker's last words, also those of a library that aborts.
"""

import contextlib
import os
import re
import threading
from collections.abc import Callable

LINE_BYTES = 8192
"""A longer line comes in parts."""
_LOGGED = re.compile(r"^[\d-]+ [\d:,]+ (DEBUG|INFO|WARNING|ERROR|CRITICAL) \S+ - (.*)$")
"""As `flctl.worker.main` writes what is logged in the worker."""

Keep = Callable[[str, str], None]
"""Takes the level of a line, and its text."""


def relayed(keep: Keep) -> int:
    """A descriptor for the process to write to, which the caller closes. A thread reads the other
    end until all that write to it have ended."""
    read, write = os.pipe()
    reader = threading.Thread(target=_relay, args=(read, keep), name="flctl.worker.says")
    reader.daemon = True
    reader.start()
    return write


def _relay(fd: int, keep: Keep) -> None:
    with os.fdopen(fd, "rb") as lines:
        while line := lines.readline(LINE_BYTES):
            with contextlib.suppress(OSError):  # ours is closed
                os.write(2, line)
            if text := line.decode(errors="replace").rstrip():
                found = _LOGGED.match(text)
                keep(*(found.groups() if found else ("INFO", text)))
