"""Metrics from counts, and the metrics of several agents as one.

Up to `CONFUSION` classes the counts are a confusion matrix; of more there are three for each
class, so that what travels grows with the classes and not with their square.
"""

import math
from collections.abc import Sequence
from operator import gt

import msgspec
import numpy as np
from numpy.typing import NDArray

from flctl.wire.messages import Metrics

MOST_LOSS = 1e300
"""Of one agent: sums over a fleet stay finite."""


CONFUSION = 100
"""Classes up to which a confusion matrix is kept: with four bytes a cell it fills a message."""

Counts = NDArray[np.int64]


def from_confusion(loss: float, confusion: Sequence[Sequence[int]]) -> Metrics:
    """Metrics of one part of the data; `loss` is its mean, `confusion[target][prediction]`.

    Raises ValueError when the matrix is not square.
    """
    table = np.asarray(confusion, dtype=np.int64)
    if table.ndim != 2 or table.shape[0] != table.shape[1]:
        raise ValueError(f"a confusion matrix of shape {table.shape} is not square")
    figures = _from_counts(loss, _counts(table))
    return msgspec.structs.replace(
        figures, confusion=tuple(tuple(int(n) for n in row) for row in table)
    )


class Tally:
    """Counts the predictions of one evaluation; memory grows with the classes alone."""

    def __init__(self, classes: int) -> None:
        self._classes, self._whole = classes, classes <= CONFUSION
        self._counts = np.zeros((classes, classes if self._whole else 3), np.int64)

    def add(self, targets: Counts, predictions: Counts) -> None:
        """Of some examples, the number of each one's class and of the one it is said to be."""
        n = self._classes
        if self._whole:
            cells = np.bincount(targets * n + predictions, minlength=n**2)
            self._counts += cells.reshape(n, n)
        else:
            ways = (targets[targets == predictions], targets, predictions)
            self._counts += np.stack([np.bincount(way, minlength=n) for way in ways], axis=1)

    def metrics(self, loss: float) -> Metrics:
        """`loss` is the mean over the examples."""
        if self._whole:
            return from_confusion(loss, self._counts.tolist())
        return _with_counts(_from_counts(loss, self._counts), self._counts)


def classes_of(metrics: Metrics) -> int:
    """How many classes its counts are of; 0 where there are none."""
    return len(metrics.confusion) or len(metrics.per_class)


def without_counts(metrics: Metrics) -> Metrics:
    """Only the figures."""
    return msgspec.structs.replace(metrics, confusion=(), per_class=())


def verified(claimed: Metrics, most: int) -> Metrics:
    """What a stranger's metrics amount to: accuracy and macro-F1 come from the counts.

    Raises ValueError when the numbers do not go together, or count more than `most` examples.
    """
    if claimed.examples > most:
        raise ValueError(f"{claimed.examples} examples, {most} were declared")
    if not abs(claimed.loss) <= MOST_LOSS:
        raise ValueError(f"the loss is not a finite number below {MOST_LOSS:g}")
    if claimed.confusion and claimed.per_class:
        raise ValueError("a confusion matrix and counts by class: one of them is enough")
    if claimed.per_class:
        hits, targets, predictions = zip(*claimed.per_class, strict=True)
        if not sum(targets) == sum(predictions) == claimed.examples >= 1:
            raise ValueError("the counts by class do not add up to the examples")
        if any(map(gt, hits, map(min, targets, predictions))):
            raise ValueError("a class has more hits than examples or predictions")
        counts = np.asarray(claimed.per_class, dtype=np.int64)
        return _with_counts(_from_counts(claimed.loss, counts), counts)
    if claimed.examples < 1 or sum(map(sum, claimed.confusion)) != claimed.examples:
        raise ValueError("the confusion matrix does not add up to the examples")
    return from_confusion(claimed.loss, claimed.confusion)


def merge(parts: Sequence[Metrics]) -> Metrics:
    """Metrics over the union of the parts' examples; what a single evaluation would say.

    Raises ValueError when there is none, or when they do not have the same classes.
    """
    if not parts or len({classes_of(part) for part in parts}) != 1:
        raise ValueError("the parts do not have the same classes")
    examples = max(1, sum(part.examples for part in parts))
    loss = math.fsum(part.loss * (part.examples / examples) for part in parts)
    if all(part.confusion for part in parts):
        tables = [np.asarray(part.confusion, dtype=np.int64) for part in parts]
        return from_confusion(loss, np.sum(tables, axis=0).tolist())
    counts = np.sum(
        [
            _counts(np.asarray(part.confusion, dtype=np.int64))
            if part.confusion
            else np.asarray(part.per_class, dtype=np.int64).reshape(-1, 3)
            for part in parts
        ],
        axis=0,
    )
    return _with_counts(_from_counts(loss, counts), counts)


def _counts(table: Counts) -> Counts:
    """Hits, targets and predictions of each class of a confusion matrix, [C, 3]."""
    return np.stack([table.diagonal(), table.sum(axis=1), table.sum(axis=0)], axis=1)


def _from_counts(loss: float, counts: Counts) -> Metrics:
    """Macro-F1 is the mean of 2TP / (2TP + FP + FN) over the classes that occur as target
    or as prediction."""
    hits, targets, predictions = counts.T
    examples = int(targets.sum())
    occurrences = targets + predictions
    present = occurrences > 0
    f1 = 2 * hits[present] / occurrences[present]
    return Metrics(
        loss=loss,
        accuracy=float(hits.sum() / examples) if examples else 0.0,
        macro_f1=float(f1.mean()) if examples else 0.0,
        examples=examples,
    )


def _with_counts(figures: Metrics, counts: Counts) -> Metrics:
    rows = tuple((hits, targets, said) for hits, targets, said in counts.tolist())
    return msgspec.structs.replace(figures, per_class=rows)
