"""Where an agent's examples come from: a task's data at a path, or one part of them."""

import contextlib
from pathlib import Path
from typing import Protocol

from flctl.errors import DataError
from flctl.learning.examples import Examples, Indices, concatenate
from flctl.learning.guard import expect_labelled
from flctl.learning.partition import partition, partition_held_out
from flctl.learning.task import Task
from flctl.learning.validation import Parted, parted
from flctl.settings import Partition
from flctl.wire.messages import TRAINING, VALIDATION


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
    @property
    def all(self) -> ShardLike | None: ...


def training_examples(task: Task, source: SourceLike) -> Examples:
    """What the owner of `source` trains on. Raises DataError."""
    return own_parts(task, source)[0]


def own_parts(task: Task, source: SourceLike) -> Parted:
    """What the owner of `source` trains on, and its validation part. Raises DataError."""
    path, shard = _path(source), source.shard
    examples = task.train_data(path)
    if shard is None:
        return parts_of(task, path, examples)
    rows = _own(shard, shards(examples, shard, changing=True))
    if not len(rows):
        shards(examples, shard)  # says what there is too little of
    dealt = _dealt(task.validation(path), examples, shard)
    return _parted(task, examples.select(rows), dealt, shard.index)


def parts_of(task: Task, path: Path | None, examples: Examples) -> Parted:
    """Parts of `examples`, all that the task trains on at `path`. Raises DataError."""
    return _parted(task, examples, [task.validation(path)], 0)


def all_parts(
    task: Task, examples: Examples, path: Path | None, shard: ShardLike
) -> list[Parted | None]:
    """Parts of every owner of `examples`, what the task trains on at `path`; None for one who
    gets nothing. Raises DataError."""
    dealt = _dealt(task.validation(path), examples, shard)
    parts = shards(examples, shard, changing=True)
    return [
        _parted(task, examples.select(rows), dealt, at) if len(rows) else None
        for at, rows in enumerate(parts)
    ]


def _parted(task: Task, own: Examples, dealt: list[Examples | None], at: int) -> Parted:
    """`dealt`: what the task brings itself, if to anybody."""
    expect_labelled(task, own)
    return (own, dealt[at]) if any(dealt) else parted(own, task.validation_share)


def _dealt(brought: Examples | None, training: Examples, shard: ShardLike) -> list[Examples | None]:
    if brought is None:
        return []
    hands = held_out_shards(brought, training if shard.partition == "record" else None, shard)
    return [brought.select(rows) if len(rows) else None for rows in hands]


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
        parts = _not_trained_on(task, path, parts)
    if source.beside is not None:
        trained = task.train_data(Path(source.beside)).rows()
        parts = {
            f"{TRAINING}: {name}" if part.rows() <= trained and name != TRAINING else name: part
            for name, part in parts.items()
        }
    validation = _validation(task, source)
    return parts if validation is None else {**parts, VALIDATION: validation}


def _validation(task: Task, source: SourceLike) -> Examples | None:
    """Validation part of all agents, where they are here; else of what ships with the task. What
    other agents have is with them."""
    path = _path(source) if source.trained_on else Path(source.beside) if source.beside else None
    if source.all is None:
        if source.trained_on and path is None:
            with contextlib.suppress(DataError):  # it may ship with data for testing alone
                return own_parts(task, source)[1]
        return None
    found = all_parts(task, task.train_data(path), path, source.all)
    parts = [part[1] for part in found if part is not None and part[1] is not None]
    return concatenate(parts, "the validation part") if parts else None


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
