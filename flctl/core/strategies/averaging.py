"""Weights of updates, and their mean. Sums run in float64, in the order of the updates."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from flctl.wire.parameters import Array

Weights = NDArray[np.float64]
"""Weights of the updates, summing to 1."""
Floats = NDArray[np.float64]


HALF = 0.5
"""The most that one of three or more weighs, unless the run says otherwise. Examples are a claim
that nothing proves: Portnoy et al. 2020, "Towards Federated Learning With Byzantine-Robust Client
Weighting", cut such weights off because an average holds only while the liars have less than half.
A smaller share would already bind where honest agents have unequal data, say 3 : 2 : 1."""


def weigh(examples: Sequence[int], weighting: str, max_share: float | None = 1.0) -> Weights:
    """Weight of each update, summing to 1: by examples or uniform, none over `max_share`.

    What is cut off is spread over the others in proportion; where everybody would be
    over (`max_share` below 1/K), the weights are uniform. None: `HALF` of three or more.
    """
    if max_share is None:
        max_share = HALF if len(examples) > 2 else 1.0
    raw = np.ones(len(examples)) if weighting == "uniform" else np.asarray(examples, np.float64)
    shares: Weights = raw / raw.sum()
    if max_share * len(shares) <= 1:
        return np.full(len(shares), 1 / len(shares))
    capped = np.zeros(len(shares), dtype=bool)
    while np.any(over := shares > max_share * (1 + 1e-12)):
        capped |= over
        rest = raw[~capped].sum()
        shares = np.where(capped, max_share, raw / rest * (1 - max_share * capped.sum()))
    return shares


def mean(parts: Iterator[Array], weights: Weights) -> Floats:
    """w ← Σ nₖ/n · wₖ, element by element; only one update's part is in memory at a time."""
    total: Floats = np.multiply(next(parts), weights[0], dtype=np.float64)
    term = np.empty_like(total)
    for weight, part in zip(weights[1:], parts, strict=True):
        np.multiply(part, weight, out=term, dtype=np.float64)
        total += term
    return total
