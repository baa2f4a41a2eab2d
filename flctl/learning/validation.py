"""The validation part, by which the best round is chosen; it is not trained on."""

import numpy as np
from numpy.typing import NDArray

from flctl.learning.examples import Examples, Indices

Parted = tuple[Examples, Examples | None]
"""Training part, and validation part; None: too little data for one."""


def parted(examples: Examples, share: float) -> Parted:
    """What `split_off` says, as copies."""
    rest, held = split_off(examples, share)
    return (examples.select(rest), examples.select(held)) if len(held) else (examples, None)


def split_off(examples: Examples, share: float) -> tuple[Indices, Indices]:
    """All but the last `share` of each group, rounded down, and those. Of groups that are too small
    to give one example some give their last, so that together they give their share. None are taken
    where none would be left.

    Examples of no group, and groups that are sorted by class, give the last of each class
    instead: else a class at the end would never be trained on.
    """
    y = examples.labels
    if examples.group is None:
        groups = [np.arange(len(y))]
    else:
        _, group, counts = np.unique(examples.group, return_inverse=True, return_counts=True)
        groups = np.split(np.argsort(group, kind="stable"), np.cumsum(counts)[:-1])
    held = np.zeros(len(y), np.bool_)
    small = [rows for rows in groups if not _count(share, len(rows))]
    together = _count(share, sum(map(len, small)))
    for at in range(together):  # evenly over the groups: their order may be that of the classes
        held[small[(2 * at + 1) * len(small) // (2 * together)][-1]] = True
    for rows in groups:
        count = _count(share, len(rows))
        labels = y[rows]
        by_class = examples.group is None or bool((np.diff(labels) >= 0).all())
        order = np.argsort(_places(labels), kind="stable") if by_class else slice(None)
        held[rows[order][len(rows) - count :]] = True
    if held.all():
        held[:] = False
    return _rows(~held), _rows(held)


def _count(share: float, examples: int) -> int:
    return int(share * examples + 1e-9)


def _places(labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Where each example stands among those of its class, from 0 to 1."""
    order = np.argsort(labels, kind="stable")
    _, first, counts = np.unique(labels[order], return_index=True, return_counts=True)
    place = np.arange(len(labels)) - np.repeat(first, counts)
    places = np.empty(len(labels))
    places[order] = (place + 0.5) / np.repeat(counts, counts)
    return places


def _rows(chosen: NDArray[np.bool_]) -> Indices:
    return np.flatnonzero(chosen).astype(np.int64)
