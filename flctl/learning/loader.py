"""Which examples make which batch: a pure function of seed, agent and position."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from flctl.core.randomness import derive
from flctl.errors import SettingsError, is_out_of_memory
from flctl.learning.examples import Batch, Examples, Indices
from flctl.learning.guard import of_loader
from flctl.learning.task import Task
from flctl.settings import LocalTraining


class BatchPlan:
    """The endless sequence of an agent's batches; each epoch is shuffled anew.

    Raises SettingsError when an epoch has no batch.
    """

    def __init__(self, examples: int, training: LocalTraining, *, seed: int, agent: str) -> None:
        self._examples = examples
        self._size = training.batch_size
        self._shuffle = training.shuffle
        self._seed = seed
        self._agent = agent
        self._order: tuple[int, Indices] | None = None
        whole, rest = divmod(examples, training.batch_size)
        self.per_epoch = whole + (1 if rest and not training.drop_last else 0)
        if self.per_epoch == 0:
            raise SettingsError(
                f"agent {agent} has {examples} examples: drop_last leaves it no batch of "
                f"{training.batch_size}; lower batch_size"
            )

    def steps(self, training: LocalTraining) -> int:
        """Batches in one round: whole epochs, or fewer if federate_after_n_batches says so."""
        limit = training.federate_after_n_batches
        steps = training.epochs * self.per_epoch
        return steps if limit is None else min(steps, limit)

    def batch(self, position: int) -> Indices:
        """Indices of batch number `position`, counted from 0 since the run began."""
        epoch, number = divmod(position, self.per_epoch)
        return self._epoch(epoch)[number * self._size : (number + 1) * self._size]

    def _epoch(self, epoch: int) -> Indices:
        if self._order is None or self._order[0] != epoch:
            order = np.arange(self._examples, dtype=np.int64)
            if self._shuffle:
                seed = derive(self._seed, "shuffle", self._agent, epoch)
                np.random.default_rng(seed).shuffle(order)
            self._order = (epoch, order)
        return self._order[1]


def load(task: Task, examples: Examples, batches: Iterable[Indices]) -> Iterator[Batch]:
    """The batches with those indices, in that order, on the CPU. Raises TaskError."""
    if _in_memory(task):
        # A loader would only add its overhead to every step on a Pi.
        yield from map(examples.batch, batches)
        return
    own_collate = type(task).collate is not Task.collate
    collate: Callable[[Any], Batch] = task.collate if own_collate else _as_is
    found: Any = examples if own_collate else _InBatches(examples)
    try:
        yield from DataLoader(
            found,
            batch_sampler=(indices.tolist() for indices in batches),
            collate_fn=collate,
            num_workers=task.workers,
            # Its own, so that loading takes nothing from the generator that dropout uses.
            generator=torch.Generator().manual_seed(0),
        )
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise of_loader(task, error) from error


def in_order(task: Task, examples: Examples, batch_size: int) -> Iterator[Batch]:
    """All examples once, unshuffled, for evaluation."""
    starts = range(0, len(examples), batch_size)
    if _in_memory(task):
        return (examples.run(start, start + batch_size) for start in starts)
    indices = np.arange(len(examples), dtype=np.int64)
    return load(task, examples, [indices[start : start + batch_size] for start in starts])


def _in_memory(task: Task) -> bool:
    return type(task).collate is Task.collate and task.workers == 0


class _InBatches:
    """`Examples` for a loader that asks for a whole batch at once (`__getitems__`)."""

    def __init__(self, examples: Examples) -> None:
        self._examples = examples

    def __getitem__(self, index: int) -> Batch:
        return self._examples[index]

    def __getitems__(self, indices: list[int]) -> Batch:
        return self._examples.batch(indices)


def _as_is(batch: Batch) -> Batch:
    return batch
