"""Where an agent's examples come from: a task's data at a path, or one part of them."""

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np

from flctl.errors import DataError
from flctl.learning.examples import Examples, Indices
from flctl.learning.guard import expect_labelled
from flctl.learning.partition import partition, partition_held_out
from flctl.learning.task import Task
from flctl.learning.validation import Parted, parted, split_off
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
    owners = _own(shard)
    training, validation = deal(task, examples, path, shard, owners)
    (owner,) = owners.values()
    if owner not in training:
        shards(examples, shard)  # says what there is too little of
    return training[owner], validation.get(owner)


def parts_of(task: Task, path: Path | None, examples: Examples) -> Parted:
    """Parts of `examples`, all that the task trains on at `path`. Raises DataError."""
    expect_labelled(task, examples)
    brought = task.validation(path)
    return (examples, brought) if brought else parted(examples, task.validation_share)


class Dealt(Mapping[str, Examples]):
    """Parts of one data set by their owners; each is copied out when it is asked for, so that
    memory does not grow with them."""

    def __init__(self, examples: Examples, rows: Mapping[str, Indices]) -> None:
        self._examples = examples
        self._rows = {owner: own for owner, own in rows.items() if len(own)}
        self._broken: dict[str, dict[int, str]] = {}
        self._digests: dict[str, list[str]] = {}

    def __getitem__(self, owner: str) -> Examples:
        part = self._examples.select(self._rows[owner])
        part.broken = self._broken.setdefault(owner, part.broken)  # warned of once
        part.digests = self._digests.setdefault(owner, part.digests)
        return part

    def __contains__(self, owner: object) -> bool:
        return owner in self._rows

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def first(self, count: int) -> "Dealt":
        """Those of so many owners."""
        return Dealt(self._examples, dict(islice(self._rows.items(), count)))

    @cached_property
    def digest(self) -> str:
        """Of all examples, and of who has which."""
        found = hashlib.sha256(self._examples.digest.encode())
        for owner, rows in self._rows.items():
            found.update(f"{owner} {len(rows)}\n".encode())
            found.update(np.ascontiguousarray(rows).data.cast("B"))
        return found.hexdigest()

    def together(self, where: str) -> Examples | None:
        """All parts as one, in the order of the owners."""
        if not self:
            return None
        whole = self._examples.select(np.concatenate(list(self._rows.values())))
        whole.where = where
        return whole


def digest_of_dealt(parts: Mapping[str, Examples]) -> str:
    """Empty if there are no parts."""
    return parts.digest if isinstance(parts, Dealt) else ""


def deal(
    task: Task, examples: Examples, path: Path | None, shard: ShardLike, owners: Mapping[int, str]
) -> tuple[Dealt, Dealt]:
    """What `owners`, named by the number of their shard, train on, and their validation parts;
    `examples` are what the task trains on at `path`. Raises DataError."""
    parts = shards(examples, shard, changing=True)
    expect_labelled(task, examples)
    training = {owner: parts[at] for at, owner in owners.items() if len(parts[at])}
    brought = task.validation(path)
    if brought is not None:
        hands = held_out_shards(brought, examples if shard.partition == "record" else None, shard)
        if any(map(len, hands)):
            own = {owner: hands[at] for at, owner in owners.items() if owner in training}
            return Dealt(examples, training), Dealt(brought, own)
    held: dict[str, Indices] = {}
    if task.validation_share:
        for owner, rows in training.items():
            rest, last = split_off(examples.select(rows), task.validation_share)
            training[owner], held[owner] = rows[rest], rows[last]
    return Dealt(examples, training), Dealt(examples, held)


def deal_held_out(
    task: Task, path: Path | None, shard: ShardLike, owners: Mapping[int, str]
) -> Mapping[str, Examples]:
    """What those of `owners` evaluate on who have something. Raises DataError."""
    examples = task.held_out(path)
    if examples is None:
        return {}
    training = task.train_data(path) if shard.partition == "record" else None
    hands = held_out_shards(examples, training, shard)
    return Dealt(examples, {owner: hands[at] for at, owner in owners.items()})


def held_out_examples(task: Task, source: SourceLike) -> Examples | None:
    """What the owner of `source` evaluates on; None when there is nothing. Raises DataError."""
    path, shard = _path(source), source.shard
    if shard is None:
        return task.held_out(path)
    return next(iter(deal_held_out(task, path, shard, _own(shard)).values()), None)


def evaluation_parts(task: Task, source: SourceLike) -> dict[str, Examples]:
    """What the coordinator evaluates on, by name; the first counts. Raises DataError."""
    path = _path(source)
    if path is None and source.all is None and type(task).sample is not Task.sample:
        return {}  # invented; the agents have data of their own
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
    owners = {at: str(at) for at in range(source.all.of)}
    _, held = deal(task, task.train_data(path), path, source.all, owners)
    return held.together("the validation part")


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


def _own(shard: ShardLike) -> dict[int, str]:
    if not 0 <= shard.index < shard.of:
        raise DataError(f"shard {shard.index} of {shard.of}: they are counted from 0")
    return {shard.index: str(shard.index)}


def _path(source: SourceLike) -> Path | None:
    return None if source.path is None else Path(source.path)
