"""A job of the shell in the background prints lines: a live view would draw over the user's."""

import contextlib
import os
import pty
import sys

import pytest

CODE = "from flctl.terminal.watching import watcher; print(type(watcher(False, False)).__name__)"


@pytest.mark.parametrize(("apart", "shown"), [(False, "LiveWatcher"), (True, "LineWatcher")])
def test_only_a_job_in_the_foreground_draws(apart: bool, shown: str):
    """`apart`: in a process group of its own, as a shell runs what ends in &."""
    pid, terminal = pty.fork()
    if pid == 0:  # the shell, with a terminal of its own
        if os.fork() == 0:
            if apart:
                os.setpgid(0, 0)
            os.execv(sys.executable, [sys.executable, "-c", CODE])
        os.wait()
        os._exit(0)
    said = b""
    with contextlib.suppress(OSError):  # all have closed it
        while data := os.read(terminal, 1000):
            said += data
    os.close(terminal)
    os.waitpid(pid, 0)
    assert said.decode().split() == [shown]
