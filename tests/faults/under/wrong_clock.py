"""A wall clock that is wrong by the seconds in a file: see `fault_points`."""

import os
import time


def install(path):
    """What Python calls the time of day; what counts seconds since the boot is right."""
    real, real_open = time.time, os.open

    def off():
        try:
            fd = real_open(path, os.O_RDONLY)
        except FileNotFoundError:
            return 0.0
        try:
            return float(os.read(fd, 64) or 0)
        finally:
            os.close(fd)

    time.time = lambda: real() + off()
    time.time_ns = lambda: int(time.time() * 1e9)
    for name in ("gmtime", "localtime"):
        setattr(time, name, Then(getattr(time, name)))
    plain_strftime = time.strftime
    time.strftime = lambda form, *when: plain_strftime(form, *(when or (time.localtime(),)))


class Then:
    """No plain function: `logging` keeps one as an attribute of a class, like a method."""

    def __init__(self, plain):
        self._plain = plain

    def __call__(self, seconds=None):
        return self._plain(time.time() if seconds is None else seconds)
