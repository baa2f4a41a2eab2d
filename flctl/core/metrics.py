"""Metrics from a confusion matrix, and the metrics of several agents as one."""

import math
from collections.abc import Sequence

import numpy as np

from flctl.wire.messages import Metrics

MOST_LOSS = 1e300
"""Of one agent: sums over a fleet stay finite."""


def from_confusion(loss: float, confusion: Sequence[Sequence[int]]) -> Metrics:
    """Metrics of one part of the data; `loss` is its mean, `confusion[target][prediction]`.

    Macro-F1 is the mean of 2TP / (2TP + FP + FN) over the classes that occur as target
    or as prediction. Raises ValueError when the matrix is not square.
    """
    table = np.asarray(confusion, dtype=np.int64)
    if table.ndim != 2 or table.shape[0] != table.shape[1]:
        raise ValueError(f"a confusion matrix of shape {table.shape} is not square")
    examples = int(table.sum())
    hits = table.diagonal()
    occurrences = table.sum(axis=0) + table.sum(axis=1)
    present = occurrences > 0
    f1 = 2 * hits[present] / occurrences[present]
    return Metrics(
        loss=loss,
        accuracy=float(hits.sum() / examples) if examples else 0.0,
        macro_f1=float(f1.mean()) if examples else 0.0,
        examples=examples,
        confusion=tuple(tuple(int(n) for n in row) for row in table),
    )


def verified(claimed: Metrics, most: int) -> Metrics:
    """What a stranger's metrics amount to: accuracy and macro-F1 come from the confusion.

    Raises ValueError when the numbers do not go together, or count more than `most` examples.
    """
    if claimed.examples > most:
        raise ValueError(f"{claimed.examples} examples, {most} were declared")
    if claimed.examples < 1 or sum(map(sum, claimed.confusion)) != claimed.examples:
        raise ValueError("the confusion matrix does not add up to the examples")
    if not abs(claimed.loss) <= MOST_LOSS:
        raise ValueError(f"the loss is not a finite number below {MOST_LOSS:g}")
    return from_confusion(claimed.loss, claimed.confusion)


def merge(parts: Sequence[Metrics]) -> Metrics:
    """Metrics over the union of the parts' examples; what a single evaluation would say.

    Raises ValueError when there is none, or when they do not have the same classes.
    """
    examples = max(1, sum(part.examples for part in parts))
    loss = math.fsum(part.loss * (part.examples / examples) for part in parts)
    tables = [np.asarray(part.confusion, dtype=np.int64) for part in parts]
    if not tables or any(table.shape != tables[0].shape for table in tables):
        raise ValueError("the parts do not have the same classes")
    return from_confusion(loss, np.sum(tables, axis=0).tolist())
