"""The coordinator's own worker process: makes the first model, evaluates the others.

So the coordinator itself never loads torch, and a task that crashes takes its worker.
"""

import contextlib
import logging
import os
import select
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from flctl.coordinator.store.resume import FirstModel
from flctl.errors import (
    CheckpointError,
    DataError,
    FlctlError,
    SettingsError,
    TaskError,
    UnknownTask,
    WorkerError,
)
from flctl.learning.registry import task_digest
from flctl.learning.whole import beside
from flctl.settings import RunSettings, parse
from flctl.wire.messages import Digest, Sums
from flctl.worker import jobs
from flctl.worker.process import Worker, WorkerProcess

logger = logging.getLogger(__name__)

IDLE_S = 120.0
"""An evaluator that had nothing to do for so long gives its memory back."""

_KINDS: dict[str, Callable[[str], FlctlError]] = {
    "data": DataError,
    "task": TaskError,
    "model": CheckpointError,
    "usage": SettingsError,
}


class Evaluator(Protocol):
    def initialise(self, given: dict[str, object], where: str) -> FirstModel:
        """Complete the settings and make the first model. Raises FlctlError."""

    def evaluate(self, model: Path, settings: RunSettings) -> dict[str, Sums]:
        """Sums by part of the test data, the first counts; empty: there are no data."""

    def derive(self, settings: RunSettings, sums: Sums) -> dict[str, float]:
        """Figures of torchmetrics' states. Raises FlctlError."""

    def rest(self) -> None:
        """Called now and then: give memory back when there was nothing to do."""

    def close(self) -> None: ...


class WorkerEvaluator:
    """Runs one job at a time in a worker process; its methods block."""

    def __init__(self, worker: Worker | None = None) -> None:
        self._worker = worker or WorkerProcess()
        self._closed = False
        self._has_no_tests = ""
        """Task that is not asked again for test data of its own in this run."""
        self._code: dict[str, Digest] = {}

    def initialise(self, given: dict[str, object], where: str) -> FirstModel:
        self._forget_old_code(str(given.get("task")))
        self._has_no_tests = ""
        event, fd = self._call(jobs.Initialise(given=given, where=where), None)
        if not isinstance(event, jobs.Initialised) or fd is None:
            raise WorkerError("the worker did not make a first model")
        try:
            settings = parse(event.settings, where)
        except BaseException:
            os.close(fd)
            raise
        return first_of(event, settings, fd)

    def evaluate(self, model: Path, settings: RunSettings) -> dict[str, Sums]:
        frozen = beside(model)
        job = jobs.EvaluateJob(
            task=settings.task,
            frozen=None if frozen is None else str(frozen),
            source=jobs.for_testing(settings),
            side="coordinator",
            batch_size=settings.test_batch_size,
            device=settings.device,
            threads=settings.threads if settings.local or settings.virtual else None,
        )
        if settings.task == self._has_no_tests and job.source.path is None:
            return {}
        try:
            with model.open("rb") as file:
                event, fd = self._call(job, file.fileno())
        except DataError as error:
            if settings.evaluate != "auto" or job.source.path is not None:
                raise
            # The task ships none, or they cannot be had here: then it is for the agents.
            logger.info("task=%s has no test data here: %s", settings.task, error)
            self._has_no_tests = settings.task
            return {}
        if fd is not None:
            os.close(fd)
        if not isinstance(event, jobs.Scored):
            raise WorkerError("the worker did not evaluate the model")
        return event.parts

    def derive(self, settings: RunSettings, sums: Sums) -> dict[str, float]:
        job = jobs.DeriveJob(task=settings.task, sums=sums, task_args=settings.task_args)
        event, fd = self._call(job, None)
        if fd is not None:
            os.close(fd)
        if not isinstance(event, jobs.DerivedFigures):
            raise WorkerError("the worker did not compute the metrics")
        return event.values

    def rest(self) -> None:
        idle = self._worker.idle_since
        if idle is not None and time.monotonic() - idle > IDLE_S:
            self._worker.stop()

    def close(self) -> None:
        self._closed = True
        self._worker.stop()

    def _forget_old_code(self, ref: str) -> None:
        """An upgraded task is imported by a new process."""
        with contextlib.suppress(TaskError):  # the worker reports that itself
            digest = task_digest(ref)
            if self._code.setdefault(ref, digest) != digest:
                self._worker.stop()
                self._code = {ref: digest}

    def _call(self, job: jobs.AnyJob, fd: int | None) -> tuple[jobs.AnyEvent, int | None]:
        """A worker that dies may be luckier the next time."""
        for left in reversed(range(jobs.TRIES)):
            event, attached = self._try(job, fd)
            if not isinstance(event, jobs.JobFailed):
                return event, attached
            if not left or not event.is_death:
                raise _as_error(event)
            logger.warning("%s; trying again", event.message)
        raise AssertionError("TRIES is at least 1")

    def _try(self, job: jobs.AnyJob, fd: int | None) -> tuple[jobs.AnyEvent, int | None]:
        self._worker.submit(job, fd)
        while not self._closed:
            for event, attached in self._worker.events():
                if not isinstance(event, jobs.Stepped):
                    return event, attached
            self._wait()
        raise WorkerError("the coordinator is stopping")

    def _wait(self) -> None:
        fd = self._worker.fileno()
        if fd is not None:
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            with contextlib.suppress(OSError):
                poll.poll(500)


def first_of(made: jobs.Initialised, settings: RunSettings, fd: int) -> FirstModel:
    return FirstModel(
        settings, made.task_digest, made.measures, made.blob, made.size, fd,
        made.begun, made.frozen, made.frozen_size, made.private, made.groups,
    )  # fmt: skip


def _as_error(failure: jobs.JobFailed) -> FlctlError:
    if failure.kind == "task" and "unknown task" in failure.message:
        return UnknownTask(failure.message)
    return _KINDS.get(failure.kind, WorkerError)(failure.message)
