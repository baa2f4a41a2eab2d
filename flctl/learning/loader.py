"""Which examples make which batch: a pure function of seed, agent and position."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from flctl.core.randomness import derive
from flctl.errors import SettingsError, TaskError, is_out_of_memory
from flctl.learning.careful import Broken, Careful, OneByOne
from flctl.learning.examples import Batch, Examples, Indices
from flctl.learning.guard import of_loader
from flctl.learning.task import Task
from flctl.settings import LocalTraining

logger = logging.getLogger(__name__)
TOGETHER_BYTES = 2**18
TRIES = 3
"""Batches without a single example that can be read, at the beginning: then none can be."""


class BatchPlan:
    """The endless sequence of an agent's batches; each epoch is shuffled again.

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
                f"drop_last leaves agent {agent} no batch: its examples are {examples}, fewer than "
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
    """The batches with those indices, in that order, on the CPU. What of them cannot be read is
    left out, named in the log, and kept in `examples.broken`. Raises TaskError when nothing of
    the first batches can be read."""
    if _in_memory(task, examples):
        # A loader would only add its overhead to every step on a Pi.
        yield from _together(examples, batches)
        return
    one_by_one = examples.items is not None or type(task).collate is not Task.collate
    collate: Callable[[Any], Any] = Careful(task, examples) if one_by_one else _as_is
    found: Any = OneByOne(examples) if one_by_one else _InBatches(examples)
    loader = DataLoader(
        found,
        batch_sampler=(indices.tolist() for indices in batches),
        collate_fn=collate,
        num_workers=task.workers,
        # Its own, so that loading takes nothing from the generator that dropout uses.
        generator=torch.Generator().manual_seed(0),
    )
    good = tries = 0
    broken: list[Broken] = []
    try:
        for made in loader:
            batch, broken = made if one_by_one else (made, [])
            for each in broken:
                if each.at not in examples.broken:
                    examples.broken[each.at] = each.why
                    logger.warning("%s is left out: %s", examples.name(each.at), each.why)
            good, tries = good + (batch is not None), tries + 1
            if batch is not None:
                yield batch
            elif not good and tries == TRIES:
                break
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise of_loader(task, error) from error
    if broken and not good:
        at, why = broken[0]
        said = f"no example of {len(examples.broken)} can be read; {examples.name(at)}: {why}"
        own = why.startswith("task '")
        raise TaskError(why if own else f"task '{task.name}', loading a batch: {said}")


def _together(examples: Examples, batches: Iterable[Indices]) -> Iterator[Batch]:
    """Batches of whole numbers are copied out several at a time, and cut. What is computed with
    fractions may depend on where they are in memory."""
    first = examples.select(np.zeros(1, np.int64)).array
    if first.dtype.kind not in "iu" or examples.targets.dtype.kind != "i":
        yield from map(examples.batch, batches)
        return
    most, waiting = max(1, TOGETHER_BYTES // max(1, first.nbytes)), iter(batches)
    for indices in waiting:
        drawn, count = [indices], len(indices)
        while count < most and (more := next(waiting, None)) is not None:
            drawn.append(more)
            count += len(more)
        x, y = examples.batch(np.concatenate(drawn))
        sizes = [len(each) for each in drawn]
        yield from zip(torch.split(x, sizes), torch.split(y, sizes), strict=True)


def in_order(
    task: Task, examples: Examples, batch_size: int, only: int | None = None
) -> Iterator[Batch]:
    """All examples once, unshuffled, for evaluation."""
    starts = range(0, len(examples), batch_size)
    if only is not None:
        starts = starts[only : only + 1]
    if _in_memory(task, examples):
        return (examples.run(start, start + batch_size) for start in starts)
    indices = np.arange(len(examples), dtype=np.int64)
    return load(task, examples, [indices[start : start + batch_size] for start in starts])


def _in_memory(task: Task, examples: Examples) -> bool:
    own = examples.items is not None or type(task).collate is not Task.collate
    return not own and task.workers == 0


def mapped(batch: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A tensor that `change` has changed, or a dict, list or tuple of some."""
    if isinstance(batch, Tensor):
        return change(batch)
    if isinstance(batch, Mapping):
        return {name: mapped(part, change) for name, part in batch.items()}
    if isinstance(batch, list | tuple):
        return tuple(mapped(part, change) for part in batch)
    return batch


def moved(batch: Any, device: torch.device) -> Any:
    if isinstance(batch, Tensor):
        return batch.to(device)
    return mapped(batch, lambda part: part.to(device))


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
