"""Processes that share the work of a virtual run: forked from its own, so that they have its data.

Each of them does an order in the same way, and the outcomes come in the order of the orders: their
number changes nothing. They end with the process that they were forked from.
"""

import contextlib
import ctypes
import mmap
import os
import select
import signal
import socket
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple, NoReturn, Protocol, TypeAlias

from msgspec import Struct

from flctl.core.events import UpdateStored
from flctl.core.randomness import Seeding
from flctl.errors import RunError, SettingsError
from flctl.settings import RunSettings
from flctl.wire.messages import Digest, Sums
from flctl.worker.jobs import TRIES, Event, JobFailed, Personal, PersonaliseJob, Stepped
from flctl.worker.main import failure_of
from flctl.worker.pipe import Pipe, nameless_file

POLL_S = 0.2
PR_SET_PDEATHSIG = 1


class TrainClient(Struct, frozen=True, tag="train"):
    base: Digest
    seeding: Seeding

    def __str__(self) -> str:
        return f"training {self.seeding.agent}"


class MeasureBatch(Struct, frozen=True, tag="measure"):
    """A part that was shared before the fork, or one batch of it."""

    model: str
    """Path of its file."""
    what: str
    name: str
    batch: int | None = None
    position: int = 0
    """Batches that the client of this name has consumed, by which its private tensors are found."""

    def __str__(self) -> str:
        return f"measuring the part '{self.name}'"


class PersonaliseClient(Struct, frozen=True, tag="personalise"):
    job: PersonaliseJob

    def __str__(self) -> str:
        return f"personalising {self.job.seeding.agent}"


class ClientTrained(Event, frozen=True):
    update: UpdateStored


class BatchMeasured(Event, frozen=True):
    sums: Sums


Order: TypeAlias = TrainClient | MeasureBatch | PersonaliseClient
Answer: TypeAlias = ClientTrained | BatchMeasured | Personal
Blob: TypeAlias = bytearray | memoryview


class OrderDone(NamedTuple):
    """The outcome of an order."""

    answer: Answer
    blob: Blob | None = None
    """The file of a trained client's update."""


OnStep: TypeAlias = Callable[[int, int, float], None]
Work: TypeAlias = Callable[[Order, OnStep], OrderDone]
Progress: TypeAlias = Callable[[Order, int, int, float], None]
Between: TypeAlias = Callable[[], None]
Told: TypeAlias = ClientTrained | BatchMeasured | Personal | Stepped | JobFailed


def _ignore(order: Order, step: int, steps: int, loss: float) -> None:
    pass


class Died(NamedTuple):
    """A worker has, over its order."""

    how: str


Heard: TypeAlias = OrderDone | Stepped | JobFailed | Died


class Workers(Protocol):
    """Those that do orders: this process, others of this machine, or a cluster's."""

    def do(
        self, orders: Sequence[Order], progress: Progress = _ignore, between: Between = lambda: None
    ) -> Iterator[OrderDone]:
        """The outcomes of `orders`, in their order. `between` is called while it waits, and may
        raise. Raises RunError for the first one that fails, or that kills its worker again and
        again."""
        ...

    def renew(self) -> None:
        """What is shared has changed: the next orders are about what there is now."""
        return

    def close(self) -> None:
        """End all of them, whatever they are doing."""
        return


class Alone(Workers):
    """This process does it all."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def do(
        self, orders: Sequence[Order], progress: Progress = _ignore, between: Between = lambda: None
    ) -> Iterator[OrderDone]:
        for order in orders:
            between()
            yield self._work(order, partial(progress, order))


class Shared(Workers):
    """Several workers share the orders. One that dies is replaced, and its order done again."""

    def do(
        self, orders: Sequence[Order], progress: Progress = _ignore, between: Between = lambda: None
    ) -> Iterator[OrderDone]:
        waiting, due = deque(range(len(orders))), 0
        found: dict[int, OrderDone | JobFailed] = {}
        deaths: Counter[int] = Counter()
        while due < len(orders):
            between()
            self._give(orders, waiting)
            for number, heard in self._listen():
                if isinstance(heard, Stepped):
                    progress(orders[number], heard.step, heard.steps, heard.loss)
                elif not isinstance(heard, Died):
                    found[number] = heard
                    if isinstance(heard, JobFailed):
                        waiting.clear()  # those before it are still waited for
                else:
                    waiting.appendleft(number)
                    deaths[number] += 1
                    if deaths[number] >= TRIES:
                        raise RunError(
                            f"{orders[number]} has crashed its process {TRIES} times: {heard.how}; "
                            "with too little memory, use fewer --jobs"
                        )
            while due in found:
                done = found.pop(due)
                if isinstance(done, JobFailed):
                    raise RunError(done.message)
                yield done
                due += 1

    def _give(self, orders: Sequence[Order], waiting: deque[int]) -> None:
        """Hand those that are `waiting` to workers that are idle; without waiting for them."""
        raise NotImplementedError

    def _listen(self) -> Iterator[tuple[int, Heard]]:
        """What workers have said within POLL_S, with the number of its order."""
        raise NotImplementedError


class Processes(Shared):
    """Up to `size` processes, forked when they are needed. `work` runs in them; `leave` gives up
    there what is the run's own: its locks."""

    def __init__(self, size: int, work: Work, leave: Callable[[], None]) -> None:
        self._size, self._work, self._leave = size, work, leave
        self._workers: list[_Worker] = []

    def renew(self) -> None:
        """The next orders go to new processes."""
        self.close()

    def close(self) -> None:
        while self._workers:
            self._workers.pop().end()

    def _give(self, orders: Sequence[Order], waiting: deque[int]) -> None:
        idle = [worker for worker in self._workers if worker.number is None]
        while waiting and (idle or len(self._workers) < self._size):
            if not idle:
                idle.append(_Worker(self._work, self._leave, self._workers))
                self._workers.append(idle[0])
            worker, worker.number = idle[0], waiting[0]
            with contextlib.suppress(OSError):  # it has died: its pipe says so
                worker.pipe.send(orders[waiting[0]])
            idle.pop(0), waiting.popleft()

    def _listen(self) -> Iterator[tuple[int, Heard]]:
        busy = {w.fileno(): (w, number) for w in self._workers if (number := w.number) is not None}
        poll = select.poll()  # select.select takes no descriptor above 1023
        for descriptor in busy:
            poll.register(descriptor, select.POLLIN)
        for descriptor, _ in poll.poll(1000 * POLL_S):
            worker, number = busy[descriptor]
            for message, fd in worker.pipe.receive():
                if isinstance(message, Stepped):
                    yield number, message
                    continue
                worker.number = None
                if isinstance(message, JobFailed):
                    yield number, message
                else:
                    yield number, OrderDone(message, None if fd is None else _mapped(fd))
            if worker.pipe.ended:
                self._workers.remove(worker)
                how = worker.end()
                if worker.number is not None:
                    yield worker.number, Died(how)


def workers(settings: RunSettings, device: str, work: Work, leave: Callable[[], None]) -> Workers:
    """As many as the settings say; `device` is the type of the device that they train on. Raises
    SettingsError for a GPU, which one process uses."""
    size = 1 if settings.jobs is None else settings.jobs or cores()
    if settings.engine == "ray":  # personalising, which stays here: those jobs are of a cluster
        size = min(size, cores())
    if size == 1:
        return Alone(work)
    if device != "cpu":
        raise SettingsError(
            f"jobs = {size}: the clients train on a GPU, which one process uses; leave it out, "
            "or choose --device cpu"
        )
    return Processes(size, work, leave)


def cores() -> int:
    """That this process may use."""
    mine = getattr(os, "sched_getaffinity", None)  # Linux only
    return len(mine(0)) if mine is not None else os.cpu_count() or 1


class _Worker:
    def __init__(
        self,
        work: Work,
        leave: Callable[[], None],
        others: Sequence["_Worker"],
    ) -> None:
        here, there = socket.socketpair()
        parent = os.getpid()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        self.pid = os.fork()
        if not self.pid:
            try:
                here.close()
                for other in others:  # else it would never be seen that this end is gone
                    other.pipe.close()
                leave()
                _serve(Pipe(there, Order), work, parent)
            finally:
                os._exit(1)
        there.close()
        self.pipe: Pipe[Told] = Pipe(here, Told)
        self.number: int | None = None
        """Of the order that it is doing."""

    def fileno(self) -> int:
        return self.pipe.fileno()

    def end(self) -> str:
        """How it has ended, if it had not been alive."""
        self.pipe.close()
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if not pid:
                os.kill(self.pid, signal.SIGKILL)
                _, status = os.waitpid(self.pid, 0)
            if os.WIFSIGNALED(status):
                return f"killed by {signal.Signals(os.WTERMSIG(status)).name}"
        return "it ended"


def told_now_and_then(pipe: Pipe[Order]) -> OnStep:
    due = 0.0

    def on_step(step: int, steps: int, loss: float) -> None:
        nonlocal due
        if (now := time.monotonic()) >= due or step == steps:
            due = now + POLL_S
            pipe.send(Stepped(step=step, steps=steps, loss=loss))

    return on_step


def _serve(pipe: Pipe[Order], work: Work, parent: int) -> NoReturn:
    """In the new process: Ctrl-C is for its parent, whose end is its own."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with contextlib.suppress(OSError, AttributeError):  # Linux only; else it ends with its order
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    while not pipe.ended and os.getppid() == parent:
        for order, _ in pipe.receive():
            try:
                answer, blob = work(order, told_now_and_then(pipe))
            except (Exception, MemoryError) as error:
                pipe.send(failure_of(error))
                continue
            with contextlib.ExitStack() as stack:
                fd = None if blob is None else _nameless(blob)
                if fd is not None:
                    stack.callback(os.close, fd)
                pipe.send(answer, fd)
    os._exit(0)


def _nameless(blob: Blob) -> int:
    """A file of it, which the other end maps: its bytes are not sent through the pipe."""
    fd, view = nameless_file("update"), memoryview(blob)
    while view:
        view = view[os.write(fd, view) :]
    return fd


def _mapped(fd: int) -> Blob:
    try:
        return memoryview(mmap.mmap(fd, 0, access=mmap.ACCESS_READ))
    finally:
        os.close(fd)
