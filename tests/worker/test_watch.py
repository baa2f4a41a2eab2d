"""A process that neither works nor tells anything hangs; a slow one does not."""

import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest
from real_fleet import wait_for

from flctl.worker import watch as watching
from flctl.worker.watch import HANGS_S, LOOK_S, Watch


@pytest.fixture
def sleeper() -> Iterator[psutil.Process]:
    with subprocess.Popen([sys.executable, "-c", "print(1, flush=True); input()"],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:  # fmt: skip
        assert process.stdout is not None
        process.stdout.readline()
        found = psutil.Process(process.pid)
        wait_for(lambda: found.status() == psutil.STATUS_SLEEPING, "it waits for a line")
        yield found
        process.kill()


def looks(watch: Watch, until: float) -> list[float]:
    """The times, LOOK_S apart, at which it says that the process hangs."""
    times = [LOOK_S * n for n in range(int(until / LOOK_S) + 1)]
    return [now for now in times if watch.hangs(now)]


def test_who_does_nothing_for_long_enough_hangs(sleeper: psutil.Process):
    """Not a moment earlier, and not when it was gone before."""
    assert looks(Watch(sleeper.pid), 2 * HANGS_S)[0] == HANGS_S
    assert looks(Watch(2**22 + 1), 2 * HANGS_S) == []


def test_a_word_or_processor_time_begins_it_anew(
    sleeper: psutil.Process, monkeypatch: pytest.MonkeyPatch
):
    watch = Watch(sleeper.pid)
    looks(watch, HANGS_S - LOOK_S)
    watch.told()
    assert not watch.hangs(HANGS_S)
    used = iter(range(1000))
    monkeypatch.setattr(watching, "processor_s", lambda pid: float(next(used)))
    assert looks(Watch(sleeper.pid), 3 * HANGS_S) == []


def test_time_in_which_nobody_could_look_does_not_count(sleeper: psutil.Process):
    """The whole Pi was stopped, or this process: that the other one did nothing says little."""
    watch = Watch(sleeper.pid)
    assert not watch.hangs(0.0)
    assert not watch.hangs(1e6)
    assert not watch.hangs(1e6 + LOOK_S)
