"""Where an agent's examples come from: a task's data at a path, or one part of them."""

from pathlib import Path
from typing import Protocol

from flctl.errors import DataError
from flctl.learning.examples import Examples, Indices
from flctl.learning.partition import partition, partition_held_out
from flctl.learning.task import Task
from flctl.settings import Partition
from flctl.wire.messages import TRAINING


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
    @property
    def trained_on(self) -> bool: ...
    @property
    def beside(self) -> str | None: ...


def training_examples(task: Task, source: SourceLike) -> Examples:
    """What the owner of `source` trains on. Raises DataError."""
    examples = task.train_data(_path(source))
    if source.shard is None:
        return examples
    rows = _own(source.shard, shards(examples, source.shard, changing=True))
    if not len(rows):
        shards(examples, source.shard)  # says what there is too little of
    return examples.select(rows)


def held_out_examples(task: Task, source: SourceLike) -> Examples | None:
    """What the owner of `source` evaluates on; None when there is nothing. Raises DataError."""
    examples = task.held_out(_path(source))
    shard = source.shard
    if examples is None or shard is None:
        return examples
    training = task.train_data(_path(source)) if shard.partition == "record" else None
    rows = _own(shard, held_out_shards(examples, training, shard))
    return examples.select(rows) if len(rows) else None


def evaluation_parts(task: Task, source: SourceLike) -> dict[str, Examples]:
    """What the coordinator evaluates on, by name; the first counts. Raises DataError."""
    path = _path(source)
    parts = task.test_parts(path)
    if source.trained_on and path:
        return _not_trained_on(task, path, parts)
    if source.beside is not None:
        trained = task.train_data(Path(source.beside)).rows()
        return {
            f"{TRAINING}: {name}" if part.rows() <= trained and name != TRAINING else name: part
            for name, part in parts.items()
        }
    return parts


def _not_trained_on(task: Task, path: Path, parts: dict[str, Examples]) -> dict[str, Examples]:
    """Some tasks test on all they have where the data do not say what is for testing: what is held
    out counts instead, if anything is. Without that there are no data for testing."""
    train = task.train_data(path)
    trained = train.rows()
    kept = {
        name: part
        for name, part in parts.items()
        if not (part.contains(train) or part.rows() <= trained)
    }
    held_out = task.held_out(path) if not kept else None
    return kept or ({"held out": held_out} if held_out is not None else {})


def shards(examples: Examples, shard: ShardLike, changing: bool = False) -> list[Indices]:
    """The parts of all `shard.of` owners; of `changing` data some may be empty. Raises
    DataError."""
    try:
        return partition(
            shard.partition,
            examples.labels,
            examples.group,
            shard.of,
            alpha=shard.alpha,
            seed=shard.seed,
            changing=changing,
        )
    except DataError as error:
        raise DataError(f"{examples.where}: {error}") from error


def held_out_shards(
    held_out: Examples, training: Examples | None, shard: ShardLike
) -> list[Indices]:
    """The held-out parts of all `shard.of` owners; by record they follow `training`.

    Raises DataError.
    """
    return partition_held_out(
        shard.partition,
        held_out.group,
        None if training is None else training.group,
        len(held_out),
        shard.of,
        seed=shard.seed,
    )


def _own(shard: ShardLike, parts: list[Indices]) -> Indices:
    if not 0 <= shard.index < shard.of:
        raise DataError(f"shard {shard.index} of {shard.of}: they are counted from 0")
    return parts[shard.index]


def _path(source: SourceLike) -> Path | None:
    return None if source.path is None else Path(source.path)
