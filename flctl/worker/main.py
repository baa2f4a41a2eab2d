"""The worker process: `python -m flctl.worker.main DESCRIPTOR LOG_LEVEL`.

It reads jobs from the socket with that number, runs one at a time, and ends at once when
the other end is closed, whatever it is doing.
"""

import contextlib
import logging
import os
import queue
import signal
import socket
import sys
import threading
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NoReturn, TypeAlias

from flctl.errors import (
    CheckpointError,
    DamagedData,
    DataError,
    FlctlError,
    OwnerRefuses,
    TaskError,
    UsageError,
    WireError,
    is_out_of_memory,
)
from flctl.extras import as_missing_torch
from flctl.worker.jobs import (
    AnyEvent,
    AnyJob,
    DeriveJob,
    Describe,
    EvaluateJob,
    Initialise,
    JobFailed,
    PersonaliseJob,
    TrainJob,
)
from flctl.worker.pipe import Pipe

if TYPE_CHECKING:
    from flctl.worker.execution import Executor

logger = logging.getLogger(__name__)

LOG_FORMAT = "%(asctime)s %(levelname)s %(filename)s(l:%(lineno)d) - %(message)s"

FailureKind = Literal["out of memory", "data", "task", "model", "owner", "usage", "error"]
Work: TypeAlias = tuple[AnyJob, int | None]


def main(arguments: list[str]) -> NoReturn:
    descriptor, level = map(int, arguments)
    plain = level >= logging.WARNING  # of a command with other output, and no log
    form = "flctl: %(message)s" if plain else LOG_FORMAT
    logging.basicConfig(level=level, format=form, stream=sys.stderr)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _prefer_for_the_oom_killer()
    os.set_inheritable(descriptor, False)
    pipe: Pipe[AnyJob] = Pipe(socket.socket(fileno=descriptor), AnyJob)
    jobs: queue.SimpleQueue[Work] = queue.SimpleQueue()
    threading.Thread(target=_watch, args=(pipe, jobs), daemon=True).start()
    runner = Runner(pipe)
    while True:
        job, fd = jobs.get()
        try:
            runner.run(job, fd)
        except OSError:
            _end()  # no supervisor is left


class Runner:
    """Runs jobs and reports their outcome; the first one loads torch."""

    def __init__(self, pipe: Pipe[AnyJob]) -> None:
        self._pipe = pipe
        self._executor: Executor | None = None

    def run(self, job: AnyJob, fd: int | None) -> None:
        """Raises OSError when the outcome cannot be reported."""
        outcome: tuple[AnyEvent, int | None]
        try:
            outcome = self._outcome(job, fd)
        except (Exception, MemoryError) as error:
            outcome = failure_of(error), None
            logger.debug("job=%s failed", type(job).__name__, exc_info=error)
        finally:
            if fd is not None:
                os.close(fd)
        event, result_fd = outcome
        try:
            self._pipe.send(event, result_fd)
        except FlctlError as error:
            self._pipe.send(failure_of(error))
        if result_fd is not None:
            os.close(result_fd)

    def _outcome(self, job: AnyJob, fd: int | None) -> tuple[AnyEvent, int | None]:
        executor = self._load()
        match job:
            case Describe():
                return executor.describe(job), None
            case Initialise():
                return executor.initialise(job)
            case TrainJob():
                return executor.train(job, _needed(fd), self._pipe.send)
            case EvaluateJob():
                return executor.evaluate(job, _needed(fd)), None
            case DeriveJob():
                return executor.derive(job), None
            case PersonaliseJob():
                return executor.personalise(job, _needed(fd), self._pipe.send), None

    def _load(self) -> "Executor":
        if self._executor is None:
            from flctl.worker.execution import Executor

            self._executor = Executor()
        return self._executor


def failure_of(error: BaseException) -> JobFailed:
    """The error as an event for the supervisor: a kind, and one line without a traceback."""
    error = as_missing_torch(error, f"the worker on {socket.gethostname()}")
    if isinstance(error, FlctlError):
        damaged = isinstance(error, DamagedData)
        return JobFailed(kind=_kind(error), message=_one_line(str(error)), damaged=damaged)
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    text = _one_line(str(error))
    if is_out_of_memory(error):
        advice = "use a smaller batch_size"
        return JobFailed(kind="out of memory", message=f"out of memory{where}; {advice}")
    message = f"{type(error).__name__}: {text}{where}" if text else f"{type(error).__name__}{where}"
    return JobFailed(kind="error", message=message)


def _kind(error: FlctlError) -> FailureKind:
    kinds: tuple[tuple[type[FlctlError], FailureKind], ...] = (
        (UsageError, "usage"),  # before TaskError: an unknown task is both
        (TaskError, "task"),
        (DataError, "data"),
        (OwnerRefuses, "owner"),
        (CheckpointError, "model"),
        (WireError, "model"),
    )
    return next((kind for cls, kind in kinds if isinstance(error, cls)), "error")


def _one_line(text: str, limit: int = 1500) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _needed(fd: int | None) -> int:
    if fd is None:
        raise ValueError("a job without its model")
    return fd


def _prefer_for_the_oom_killer() -> None:
    """The supervisor must survive to report it. Some sandboxes forbid even to raise it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def _watch(pipe: Pipe[AnyJob], jobs: "queue.SimpleQueue[Work]") -> None:
    """The only reader: training itself does not notice that its supervisor is gone."""
    try:
        while not pipe.ended:
            for work in pipe.receive():
                jobs.put(work)
    finally:
        _end()


def _end() -> NoReturn:
    """End this process and those it has started, at once."""
    with contextlib.suppress(OSError):
        if os.getpgrp() == os.getpid():
            os.killpg(0, signal.SIGKILL)
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
