"""Squared distances between all updates of a round, as a matrix product.

‖a − b‖² = ‖a‖² + ‖b‖² − 2⟨a, b⟩, and all ⟨a, b⟩ of a slice are one product of matrices. The
subtraction loses digits where a and b lie much closer to each other than to the origin, so the
origin is the model that all updates started from, sums run in float64, and pairs that are still
too close are measured directly. Nothing is shifted by what an update says: a hostile update
with huge numbers takes no digits from the distances between the others.
"""

from collections.abc import Sequence

import numpy as np

from flctl.core.strategies.averaging import Floats
from flctl.core.strategies.slices import Slice, slices
from flctl.wire.parameters import SLICE, Tensors, TensorSpec

CLOSE = 1e-6
"""Share of ‖a‖² + ‖b‖²: a smaller difference has lost too many of float64's 16 digits."""
BLOCK = 8 * SLICE
"""Numbers of all updates in memory at a time …"""
LEAST = 1024
"""… but at least this many of each: a matrix product of a few columns is no faster than a loop."""


def squared_distances(
    base: Tensors, updates: Sequence[Tensors], tensors: Sequence[TensorSpec]
) -> Floats:
    """[K, K], over the elements of `tensors`; not finite where float64 overflows."""
    step = max(LEAST, BLOCK // len(updates))
    parts = list(slices(tensors, lambda _: step))
    products = np.zeros((len(updates), len(updates)))
    with np.errstate(over="ignore", invalid="ignore"):
        for part in parts:
            changes = _changes(base, updates, part)
            products += changes @ changes.T
        norms = products.diagonal()
        both = norms[:, None] + norms[None, :]
        distances: Floats = both - (products + products.T)
        close = ~(distances > CLOSE * both)  # also what is not a number
        np.fill_diagonal(close, val=False)
        np.fill_diagonal(distances, 0.0)
        if close.any():
            _measure(base, updates, parts, distances, np.argwhere(np.triu(close)))
    return distances


def _measure(
    base: Tensors,
    updates: Sequence[Tensors],
    parts: Sequence[Slice],
    distances: Floats,
    pairs: np.ndarray[tuple[int, ...], np.dtype[np.intp]],
) -> None:
    """Set the distances of these pairs from their differences.

    Equal updates get equal distances to all others, to the last bit: between them the order
    decides, not rounding.
    """
    involved = np.unique(pairs)
    left, right = np.searchsorted(involved, pairs.T)
    squares = np.zeros(len(pairs))
    for part in parts:
        changes = _changes(base, [updates[i] for i in involved], part)
        for row, (i, j) in enumerate(zip(left, right, strict=True)):
            squares[row] += np.square(changes[i] - changes[j]).sum()
    for (i, j), square in zip(pairs, squares, strict=True):
        distances[i, j] = distances[j, i] = square
    for (i, j), square in zip(pairs, squares, strict=True):
        if square == 0:
            distances[j] = distances[i]
            distances[:, j] = distances[:, i]


def _changes(base: Tensors, updates: Sequence[Tensors], part: Slice) -> Floats:
    """Changes of the updates in one slice, [K, elements]."""
    before = part.of(base)
    changes = np.empty((len(updates), part.count))
    for row, update in zip(changes, updates, strict=True):
        np.subtract(part.of(update), before, out=row, dtype=np.float64)
    return changes
