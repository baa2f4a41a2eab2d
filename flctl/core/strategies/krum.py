"""Krum and multi-Krum: Blanchard et al. 2017, "Machine Learning with Adversaries: Byzantine
Tolerant Gradient Descent". An update is trusted when others lie close to it.
"""

from typing import Annotated

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from flctl.core.strategies.averaging import Floats
from flctl.core.strategies.strategy import Strategy
from flctl.errors import StrategyError


class Krum(Strategy, frozen=True):
    summary = "the one update that lies nearest to the others"
    paper = "Blanchard et al. 2017"
    weighs, robust, chooses = False, True, True

    byzantine: Annotated[int, Meta(ge=0)] = 1
    """f, the most updates that may be poisoned."""

    @property
    def fewest(self) -> int:
        """n ≥ 2f + 3: the fewest updates for which the paper's promise holds."""
        return 2 * self.byzantine + 3

    def choose(self, distances: Floats) -> NDArray[np.intp]:
        return self._best(distances, 1)

    def scores(self, distances: Floats) -> Floats:
        """s(i): the sum of squared distances to the n − f − 2 nearest others.

        Raises StrategyError for fewer updates than `fewest`.
        """
        n = len(distances)
        if n < self.fewest:
            raise StrategyError(
                f"Krum with byzantine={self.byzantine} needs {self.fewest} updates in a round, "
                f"this one has {n}; raise the quorum, or choose the median"
            )
        others = distances[~np.eye(n, dtype=bool)].reshape(n, n - 1)
        nearest = np.sort(others, axis=1)[:, : n - self.byzantine - 2]
        return np.asarray(nearest.sum(axis=1))

    def _best(self, distances: Floats, count: int) -> NDArray[np.intp]:
        """The `count` best updates; of equal scores, the earlier."""
        return np.sort(np.argsort(self.scores(distances), kind="stable")[:count])


class MultiKrum(Krum, frozen=True):
    summary = "the mean of the updates that can be trusted"

    keep: Annotated[int, Meta(ge=1)] | None = None
    """How many updates count; None: n − f."""

    def choose(self, distances: Floats) -> NDArray[np.intp]:
        return self._best(distances, self.keep or len(distances) - self.byzantine)
