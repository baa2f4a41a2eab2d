"""Data in a worker's memory: a task, and the data of one source."""

import contextlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from flctl.errors import DamagedData, DataError, FlctlError, OtherData, TaskError
from flctl.learning.examples import Examples
from flctl.learning.groups import Groups
from flctl.learning.limits import check_held_out
from flctl.learning.personal import Data
from flctl.learning.private import PrivateTensors
from flctl.learning.reading import Reading
from flctl.learning.source import evaluation_parts, held_out_examples, own_parts
from flctl.learning.stamps import stamp_of
from flctl.learning.task import Task, load_task
from flctl.wire.messages import MeasuredPart
from flctl.worker.jobs import DataSource, EvaluateJob, ModelJob


class Holding:
    """A task with the data of one source, each part read when it is asked for: the first time, and
    when the files have changed."""

    def __init__(self, ref: str, source: DataSource) -> None:
        self.key = (ref, source)
        path = None if source.path is None else Path(source.path)
        self.task: Task = load_task(ref, source.task_args)
        if source.read_as is not None:
            self.task.will_read(source.read_as)
        self.task.settle(path)
        task = self.task
        self._own = Reading(path, lambda: [p for p in own_parts(task, source) if p is not None])
        self._held_out = Reading(path, lambda: held_out_examples(task, source))
        self._tests = Reading(path, lambda: evaluation_parts(task, source))

    @cached_property
    def groups(self) -> Groups:
        return Groups.of(self.task, self.task.model())

    def parts_of(self, job: ModelJob) -> tuple[Groups, PrivateTensors, Path | None]:
        """What the model of a job consists of, besides the shared tensors. Raises
        CheckpointError."""
        self.groups.expect(job.private_digest)
        own = PrivateTensors(Path(job.private), self.task, self.groups)
        return self.groups, own, None if job.frozen is None else Path(job.frozen)

    def enough(self, job: EvaluateJob) -> dict[str, Examples]:
        """The wanted parts that an agent has, and that its owner lets be measured. Raises
        OwnerRefuses when there are some, but all too small."""
        with about_data(job.source):
            there = {part: self.measured(part) for part in job.parts}
        found = {part: examples for part, examples in there.items() if examples is not None}
        if found:
            check_held_out(max(map(len, found.values())), job.limits)
        floor = job.limits.min_examples if job.limits is not None else 1
        return {part: examples for part, examples in found.items() if len(examples) >= floor}

    def training(self) -> Examples:
        return self._own.get()[0]

    def measured(self, part: MeasuredPart) -> Examples | None:
        """The agent's examples of this part."""
        return (
            next(iter(self._own.get()[1:]), None) if part == "validation" else self._held_out.get()
        )

    def data(self) -> Data:
        """All parts of an agent."""
        parts = self.measured("validation"), self.measured("test")
        return Data(self.training(), *parts)

    def tests(self) -> dict[str, Examples]:
        return self._tests.get()


@contextlib.contextmanager
def about_data(source: DataSource) -> Iterator[None]:
    """Errors of reading become DataErrors: a task that can no longer read its data has none."""
    try:
        yield
    except (DataError, TaskError) as error:
        kind = DamagedData if is_damaged(error, source) else DataError
        raise kind(str(error)) from error


def is_damaged(error: FlctlError, source: DataSource) -> bool:
    """Files are there, of the task's kind as far as it is known; else there are no data."""
    if source.path is None or isinstance(error, OtherData):
        return False
    return any(Path(file).is_file() for file in stamp_of(Path(source.path)))
