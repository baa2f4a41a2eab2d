"""Coordinate-wise median and trimmed mean: Yin et al. 2018, "Byzantine-Robust Distributed
Learning: Towards Optimal Statistical Rates", Definitions 1 and 2. What one update holds at
one place cannot move the outcome beyond what the others hold there.

Every update counts the same: an agent must not buy influence with a large claim of examples.
"""

from collections.abc import Iterator
from typing import Annotated

import numpy as np
from msgspec import Meta

from flctl.core.strategies.averaging import Floats, Weights
from flctl.core.strategies.strategy import Strategy
from flctl.wire.parameters import Array


class Median(Strategy, frozen=True):
    summary = "the median of each number"
    paper = "Yin et al. 2018"
    weighs, robust, ranks = False, True, True

    def combine(self, parts: Iterator[Array], weights: Weights) -> Floats:  # noqa: ARG002
        return median(parts)


class TrimmedMean(Strategy, frozen=True):
    summary = "the mean of each number without the smallest and largest"
    paper = "Yin et al. 2018"
    weighs, robust, ranks = False, True, True

    trim: Annotated[float, Meta(ge=0, lt=0.5)] = 0.2
    """Share of the K numbers that is left out at each end: ⌊trim·K⌋."""

    def combine(self, parts: Iterator[Array], weights: Weights) -> Floats:  # noqa: ARG002
        values = _stack(parts)
        cut = int(self.trim * len(values) + 1e-9)
        if cut:
            values.partition((cut, len(values) - cut - 1), axis=0)
            values = values[cut : len(values) - cut]
        return np.asarray(values.mean(axis=0))


def median(parts: Iterator[Array]) -> Floats:
    """The middle number at each place; of two middle ones the mean."""
    return np.asarray(np.median(_stack(parts), axis=0, overwrite_input=True))


def _stack(parts: Iterator[Array]) -> Floats:
    return np.stack([np.asarray(part, dtype=np.float64) for part in parts])
