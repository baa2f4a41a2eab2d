"""Where an agent's examples come from: a task's data at a path, or one part of them."""

from pathlib import Path
from typing import Protocol

import numpy as np

from flctl.core.randomness import derive
from flctl.errors import DataError
from flctl.learning.examples import Examples, Indices
from flctl.learning.partition import deal_groups, partition
from flctl.learning.task import Task
from flctl.settings import Partition


class ShardLike(Protocol):
    """Part `index` (from 0) of `of`; the worker's `Shard` is one."""

    @property
    def index(self) -> int: ...
    @property
    def of(self) -> int: ...
    @property
    def partition(self) -> Partition: ...
    @property
    def alpha(self) -> float: ...
    @property
    def seed(self) -> int: ...


class SourceLike(Protocol):
    """The worker's `DataSource` is one; `path` None is what ships with the task."""

    @property
    def path(self) -> str | None: ...
    @property
    def shard(self) -> ShardLike | None: ...


def training_examples(task: Task, source: SourceLike) -> Examples:
    """What the owner of `source` trains on. Raises DataError."""
    examples = task.train_data(_path(source))
    if source.shard is None:
        return examples
    return examples.select(_own(source.shard, shards(examples, source.shard)))


def held_out_examples(task: Task, source: SourceLike) -> Examples | None:
    """What the owner of `source` evaluates on; None when there is nothing. Raises DataError.

    Each held-out example belongs to one shard, so that the agents' figures, weighted by
    examples, are those of the whole: by record it follows the training data, in all other
    partitions it is dealt at random.
    """
    examples = task.held_out(_path(source))
    shard = source.shard
    if examples is None or shard is None:
        return examples
    if shard.partition == "record":
        training = task.train_data(_path(source))
        names = deal_groups(training.group, shard.of)[_checked_index(shard)]
        rows = _rows_of(examples, names)
    else:
        rng = np.random.default_rng(derive(shard.seed, "held out", shard.of))
        rows = np.sort(_own(shard, np.array_split(rng.permutation(len(examples)), shard.of)))
    return examples.select(rows) if len(rows) else None


def evaluation_parts(task: Task, source: SourceLike) -> dict[str, Examples]:
    """What the coordinator evaluates on, by name; the first counts. Raises DataError."""
    return task.test_parts(_path(source))


def shards(examples: Examples, shard: ShardLike) -> list[Indices]:
    """The parts of all `shard.of` owners. Raises DataError."""
    try:
        return partition(
            shard.partition,
            examples.y.numpy(),
            examples.group,
            shard.of,
            alpha=shard.alpha,
            seed=shard.seed,
        )
    except DataError as error:
        raise DataError(f"{examples.where}: {error}") from error


def _rows_of(examples: Examples, names: list[str]) -> Indices:
    if examples.group is None:
        return np.empty(0, dtype=np.int64)
    return np.flatnonzero(np.isin(examples.group, names))


def _own(shard: ShardLike, parts: list[Indices]) -> Indices:
    return parts[_checked_index(shard)]


def _checked_index(shard: ShardLike) -> int:
    if not 0 <= shard.index < shard.of:
        raise DataError(f"shard {shard.index} of {shard.of}: they are counted from 0")
    return shard.index


def _path(source: SourceLike) -> Path | None:
    return None if source.path is None else Path(source.path)
