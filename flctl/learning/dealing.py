"""A data set as its parts, and the parts dealt into one folder for each agent.

The shares are those that `flctl train --local` deals by the same arguments.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from flctl.errors import DataError, FlctlError, OtherData, TaskError, UsageError
from flctl.learning.cases import Cases
from flctl.learning.examples import Examples
from flctl.learning.manifest import TEST, Counts, Share, list_files
from flctl.learning.registry import known_tasks
from flctl.learning.source import held_out_shards, shards
from flctl.learning.task import Task, load_task
from flctl.settings import Partition, agent_names
from flctl.wire.messages import VALIDATION

TRAIN, HELD_OUT = "train", "held out"
UNLABELLED = "unlabelled"
RANGES = 8
"""Approximate number of ranges that numbers are counted in."""


class Plan(Struct, frozen=True, kw_only=True):
    """How data are dealt to `of` agents; what `flctl.learning.source` takes for a shard."""

    of: int
    partition: Partition
    alpha: float = 0.5
    seed: int = 1
    index: int = 0


@dataclass(frozen=True)
class DataSet:
    """What a task reads at one path; no example is in two parts."""

    train: Examples | None
    tests: Mapping[str, Examples]
    """By the names that the task has for them."""
    held_out: bool
    """Whether the first of `tests` is what its owners hold out, to be dealt with the rest."""
    problem: DataError | None = field(default=None, compare=False)
    """Why there is nothing to train on."""
    validation: Examples | None = None
    """What the task itself brings to choose the best round by."""
    cases: Cases | None = None
    """Where it is for prediction alone."""

    @property
    def parts(self) -> dict[str, Examples]:
        return {**({} if self.train is None else {TRAIN: self.train}), **self.tests}


def read_data(task: Task, path: Path | None) -> DataSet:
    """Everything that `task` reads at `path`. Raises DataError."""
    train, problem, cases = None, None, None
    task.settle(path)
    try:
        train = task.train_data(path)
    except DataError as error:
        problem = error
    try:
        held_out = task.held_out(path)
        others = _test_parts(task, path, held_out)
    except DataError:
        if problem is None:
            raise
        cases = _to_predict(task, path, problem)
        held_out, others = None, {"to predict": cases.examples}
    name = next((name for name, part in others.items() if _same(part, held_out)), HELD_OUT)
    tests = {} if held_out is None else {name: held_out}
    # Some tasks test on all their data if no part is set aside for testing.
    seen = set[int]().union(*(part.rows() for part in (train, held_out) if part is not None))
    for own, part in others.items():
        if own not in tests and not part.rows() <= seen:
            tests[own] = part
    if problem is not None and not tests:
        raise problem
    brought = None if train is None else task.validation(path)
    return DataSet(train, tests, held_out is not None, problem, brought, cases)


def _to_predict(task: Task, path: Path | None, problem: DataError) -> Cases:
    """What lacks targets, for instance. Raises `problem` where it cannot be predicted either."""
    try:
        if path is None or type(task).cases is Task.cases:
            raise problem
        found = task.cases(path)
    except FlctlError:
        raise problem from None
    found.examples.labelled = found.labelled
    return found


def find_task(path: Path) -> tuple[str, DataSet]:
    """The name of the one installed task that reads `path`, and what it reads.

    Raises DataError when none does, UsageError when several do.
    """
    found: dict[str, DataSet] = {}
    errors: dict[str, FlctlError] = {}
    for name in known_tasks():
        try:
            found[name] = read_data(load_task(name), path)
        except FlctlError as error:
            errors[name] = error
    if not found:
        # A task that knows such files has more to say than one that does not.
        told = {name: e for name, e in errors.items() if not isinstance(e, OtherData)} or errors
        if len(told) == 1:
            raise next(iter(told.values()))
        said = [f"{name}: {str(e).removeprefix(f'{path}: ')}" for name, e in told.items()]
        raise DataError(f"{path}: no installed task reads this: {'; '.join(said)}")
    if len(found) > 1:
        raise UsageError(f"{path}: {' and '.join(found)} read this; say which with --task")
    ((name, data),) = found.items()
    return name, data


class Kinds(NamedTuple):
    """What examples are counted by: their class, the labels that fit, or the range of a number."""

    names: tuple[str, ...]
    edges: NDArray[np.float64] | None = None
    """Edges of the ranges, one more than ranges."""
    noun: str = "class"

    def of(self, examples: Examples) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Row and kind of each that counts; one example can be of several labels."""
        y, rows = examples.targets, np.arange(len(examples))
        if not examples.labelled:
            return rows, np.full(len(rows), self.names.index(UNLABELLED))
        if self.edges is not None:
            first = y.reshape(len(y), -1)[:, 0]
            return rows, np.searchsorted(self.edges[1:-1], first, side="right")
        if y.ndim > 1:
            fits, which = np.nonzero(y)
            return fits, which
        return rows, y


def kinds_of(task: Task, parts: Iterable[Examples]) -> Kinds:
    """Those that the task's examples in `parts` are counted by."""
    parts = list(parts)
    more = (UNLABELLED,) if not all(part.labelled for part in parts) else ()
    if task.classes:
        return Kinds((*task.classes, *more), noun="label" if task.says == "labels" else "class")
    known = [part.targets.reshape(len(part), -1)[:, 0] for part in parts if part.labelled]
    if not known:
        return Kinds(more)
    low, high = min(y.min() for y in known), max(y.max() for y in known)
    power = 10.0 ** np.floor(np.log10((high - low) / RANGES or 1.0))
    step = next(power * n for n in (1, 2, 5, 10) if power * n * RANGES >= high - low)
    edges = np.arange(np.floor(low / step), np.floor(high / step) + 2) * step
    ranges = (f"{a:.10g} to {b:.10g} {task.unit}".rstrip() for a, b in pairwise(edges))
    return Kinds((*ranges, *more), edges, "range")


def count(examples: Examples, kinds: Kinds) -> Counts:
    """How many there are of each kind and record."""
    records = {}
    rows, which = kinds.of(examples)
    if examples.group is not None:
        names, at = np.unique(examples.group, return_inverse=True)
        counts = np.zeros((len(names), len(kinds.names)), dtype=np.int64)
        np.add.at(counts, (at[rows], which), 1)
        for record, row in zip(names.tolist(), counts.tolist(), strict=True):
            records[record] = {name: n for name, n in zip(kinds.names, row, strict=True) if n}
    found = np.bincount(which, minlength=len(kinds.names)).tolist()
    return Counts(len(examples), dict(zip(kinds.names, found, strict=True)), records)


def write_shares(task: Task, data: DataSet, plan: Plan, folder: Path) -> dict[str, Share]:
    """Write a folder for each agent, and one for testing where there is something for it.

    The test folder has all parts for testing whole, also what the agents hold out of it.
    Raises DataError when an agent would get nothing to train on, TaskError when the task
    cannot write, and OSError.
    """
    if data.train is None:
        assert data.problem is not None
        raise data.problem
    mine = dict(list(data.tests.items())[: int(data.held_out)])
    if data.validation is not None:
        mine[VALIDATION] = data.validation
    training = shards(data.train, plan)
    testing = {name: held_out_shards(part, data.train, plan) for name, part in mine.items()}
    written, kinds = {}, kinds_of(task, data.parts.values())
    for at, agent in enumerate(agent_names(plan.of)):
        tests = {name: part.select(testing[name][at]) for name, part in mine.items()
                 if len(testing[name][at])}  # fmt: skip
        own = data.train.select(training[at])
        written[agent] = _write(task, folder / agent, own, tests, kinds)
    if data.tests:
        written[TEST] = _write(task, folder / TEST, None, data.tests, kinds)
    return written


def _write(
    task: Task, folder: Path, train: Examples | None, tests: Mapping[str, Examples], kinds: Kinds
) -> Share:
    folder.mkdir()
    try:
        task.write(folder, train, tests)
        same = _reads_back(task, folder, train, tests)
    except (FlctlError, OSError):
        raise
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise TaskError(f"task '{task.name}' cannot write data: {text}") from error
    if not same:
        raise TaskError(f"task '{task.name}' does not read back what its method 'write' writes")
    parts = {**({} if train is None else {TRAIN: train}), **tests}
    counts = {name: count(part, kinds) for name, part in parts.items()}
    return Share(counts, list_files(folder))


def _reads_back(
    task: Task, folder: Path, train: Examples | None, tests: Mapping[str, Examples]
) -> bool:
    if train is None:
        return all(map(_same, task.test_parts(folder).values(), tests.values()))
    held_out = next((part for name, part in tests.items() if name != VALIDATION), None)
    return (
        _same(task.train_data(folder), train)
        and _same(task.validation(folder), tests.get(VALIDATION))
        and _same(task.held_out(folder), held_out)
    )


def _test_parts(task: Task, path: Path | None, held_out: Examples | None) -> dict[str, Examples]:
    try:
        return task.test_parts(path)
    except DataError:
        if held_out is None:  # there is nothing to test on
            return {}
        raise


def _same(one: Examples | None, other: Examples | None) -> bool:
    if one is None or other is None:
        return one is other
    a, b = one.group, other.group
    return one.digest == other.digest and (a is None or b is None or np.array_equal(a, b))
