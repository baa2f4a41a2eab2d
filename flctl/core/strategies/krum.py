"""Krum and multi-Krum: Blanchard et al. 2017, "Machine Learning with Adversaries: Byzantine
Tolerant Gradient Descent". An update is trusted when others lie close to it.
"""

import numpy as np
from numpy.typing import NDArray

from flctl.core.strategies.fedavg import Floats
from flctl.errors import StrategyError


def needed(byzantine: int) -> int:
    """n ≥ 2f + 3: the fewest updates for which the paper's promise holds."""
    return 2 * byzantine + 3


def scores(distances: Floats, byzantine: int) -> Floats:
    """s(i): the sum of squared distances to the n − f − 2 nearest others.

    `distances`: [n, n], squared, between all n updates; `byzantine` is f, the most updates
    that may be poisoned. Raises StrategyError for fewer updates than `needed`.
    """
    n = len(distances)
    if n < needed(byzantine):
        raise StrategyError(
            f"Krum with byzantine={byzantine} needs {needed(byzantine)} updates in a round, "
            f"this one has {n}; raise the quorum, or choose the median"
        )
    others = distances[~np.eye(n, dtype=bool)].reshape(n, n - 1)
    nearest = np.sort(others, axis=1)[:, : n - byzantine - 2]
    return np.asarray(nearest.sum(axis=1))


def select(distances: Floats, byzantine: int, keep: int | None) -> NDArray[np.intp]:
    """The `keep` updates of the lowest score, in their order; None keeps n − f.

    Krum keeps 1. Of equal scores the earlier one is taken. Raises StrategyError.
    """
    order = np.argsort(scores(distances, byzantine), kind="stable")
    return np.sort(order[: len(distances) - byzantine if keep is None else keep])
