"""Coordinate-wise median and trimmed mean: Yin et al. 2018, "Byzantine-Robust Distributed
Learning: Towards Optimal Statistical Rates", Definitions 1 and 2. What one update holds at
one place cannot move the outcome beyond what the others hold there.

Every update counts the same: an agent must not buy influence with a large claim of examples.
"""

from collections.abc import Iterator

import numpy as np

from flctl.core.strategies.fedavg import Floats, Weights
from flctl.wire.parameters import Array


def median(parts: Iterator[Array], weights: Weights) -> Floats:  # noqa: ARG001
    """The middle number at each place; of two middle ones the mean."""
    return np.asarray(np.median(_stack(parts), axis=0, overwrite_input=True))


def trimmed_mean(parts: Iterator[Array], weights: Weights, trim: float) -> Floats:  # noqa: ARG001
    """At each place without the ⌊trim·K⌋ smallest and as many largest of the K numbers.

    `trim` is in [0, 0.5).
    """
    values = _stack(parts)
    cut = int(trim * len(values) + 1e-9)
    if cut:
        values.partition((cut, len(values) - cut - 1), axis=0)
        values = values[cut : len(values) - cut]
    return np.asarray(values.mean(axis=0))


def _stack(parts: Iterator[Array]) -> Floats:
    return np.stack([np.asarray(part, dtype=np.float64) for part in parts])
