"""The handle on a worker process: starts it, hands it one job at a time, buries it.

Nothing here loads torch or numpy. The process is started with `subprocess`, never by
fork (libzmq#3223), and is ended by closing its pipe, which it watches.
"""

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Protocol

from flctl.errors import FlctlError, WorkerError
from flctl.worker.death import explain, oom_kills
from flctl.worker.jobs import AnyEvent, AnyJob, JobFailed, Stepped
from flctl.worker.pipe import Pipe
from flctl.worker.saying import Keep, relayed
from flctl.worker.watch import HANGS_S, Watch

logger = logging.getLogger(__name__)

GRACE_S = 1.0
"""How long each of "the pipe is closed" and SIGTERM may take to end the process."""


class Worker(Protocol):
    """Interface of a worker to its supervisor; tests run one in their own process."""

    @property
    def busy(self) -> bool: ...
    @property
    def pid(self) -> int | None: ...
    @property
    def idle_since(self) -> float | None: ...
    def submit(self, job: AnyJob, fd: int | None = None) -> None: ...
    def events(self) -> list[tuple[AnyEvent, int | None]]: ...
    def fileno(self) -> int | None: ...
    def cancel(self) -> None: ...
    def stop(self) -> None: ...


class WorkerProcess:
    """A worker process that is started by the first job and after each death.

    `idle_since` is in seconds of `clock`; `module` is what runs in it; `keep` gets
    each line that the process writes to standard error, from a thread.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        module: str = "flctl.worker.main",
        keep: Keep | None = None,
    ) -> None:
        self._clock, self._module, self._keep = clock, module, keep
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Pipe[AnyEvent] | None = None
        self._busy = False
        self._idle_since: float | None = None
        self._oom_kills = 0
        self._watch: Watch | None = None

    @property
    def busy(self) -> bool:
        return self._busy

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def idle_since(self) -> float | None:
        """When the last job ended; None while there is a job or no process."""
        return self._idle_since

    def fileno(self) -> int | None:
        """File descriptor that is readable when there are events; None without a process."""
        return self._pipe.fileno() if self._pipe else None

    def submit(self, job: AnyJob, fd: int | None = None) -> None:
        """Start `job`; `fd` (its model) stays the caller's and may be closed at once.

        Raises WorkerError when a job is under way or no process can be started.
        """
        if self._busy:
            raise WorkerError("the worker already has a job")
        if self._process is not None and self._process.poll() is not None:
            self._bury()
        self._busy, self._idle_since = True, None
        try:
            pipe = self._pipe or self._start()
            assert self._process is not None
            self._watch = Watch(self._process.pid)
            # A process that dies at this moment is reported by `events`, like any other death.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                pipe.send(job, fd)
        except BaseException:
            self.stop()
            raise

    def events(self) -> list[tuple[AnyEvent, int | None]]:
        """Events of the worker since the last call, without waiting.

        The descriptors (an update, a first model) are the caller's to close. The death of
        the process in the middle of a job is a JobFailed; one that hangs is killed.
        """
        process, pipe, watch = self._process, self._pipe, self._watch
        if process is None or pipe is None:
            return []
        # First the status: what was written before the end is read after it.
        dead = process.poll() is not None
        try:
            events = pipe.receive_now()
        except (FlctlError, OSError) as error:
            self.stop()
            text = f"the worker's message cannot be read: {error}"
            return [(JobFailed(kind="worker died", message=text), None)]
        if any(not isinstance(event, Stepped) for event, _ in events):
            self._busy, self._idle_since = False, self._clock()
        if dead or pipe.ended:
            was_busy = self._busy
            failure = self._bury()
            if was_busy:
                events.append((failure, None))
            else:
                logger.warning("%s, between two jobs", failure.message)
        elif events and watch is not None:
            watch.told()
        elif self._busy and watch is not None and watch.hangs(self._clock()):
            self.stop()
            text = f"the worker hangs: no progress and no processor time for {HANGS_S:.0f} s"
            events.append((JobFailed(kind="worker died", message=text), None))
        return events

    def cancel(self) -> None:
        """Give up the job under way: the process ends, and no more of its events are reported."""
        self.stop()

    def stop(self) -> None:
        """End the process: politely, then by SIGTERM, then by SIGKILL; it is always reaped."""
        process, pipe = self._process, self._pipe
        self._process = self._pipe = self._idle_since = None
        self._busy = False
        if pipe is not None:
            _discard(pipe)
        if process is None:
            return
        # Never signal a group whose leader is reaped: its number may be another's by now.
        for step in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_S)
                return
            _signal_group(process, step)
        process.wait()

    def _start(self) -> Pipe[AnyEvent]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        level = logging.getLogger("flctl").getEffectiveLevel()
        # -P: what lies in the current folder must not take the place of a module of Python's own.
        # A user's task is still found there, last of all (registry.locate).
        command = [sys.executable, "-P", "-m", self._module, str(theirs.fileno()), str(level)]
        self._oom_kills = oom_kills()
        said = None if self._keep is None else relayed(self._keep)
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=2 if said is None else said,  # what a download prints is no result of ours
                stderr=said,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        except OSError as error:
            ours.close()
            raise WorkerError(f"cannot start a worker process: {error}") from error
        finally:
            theirs.close()
            if said is not None:
                os.close(said)
        self._pipe = Pipe(ours, AnyEvent)
        logger.debug("worker=%d started", self._process.pid)
        return self._pipe

    def _bury(self) -> JobFailed:
        """Reap a process whose end was seen, with all that it has started."""
        process = self._process
        if process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_S)
        self.stop()
        status = process.returncode if process is not None else None
        return explain(status, oom_kills() - self._oom_kills)


def _discard(pipe: Pipe[AnyEvent]) -> None:
    with contextlib.suppress(FlctlError, OSError):
        for _, fd in pipe.receive_now():
            if fd is not None:
                os.close(fd)
    pipe.close()


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    # The worker leads a session of its own: its loaders' processes end with it.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
