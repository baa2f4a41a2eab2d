"""A strategy of your own: this file and an entry point (pyproject.toml) are all of it.

pip install ./examples/winsorised_mean     # on the coordinator, or the machine that simulates
flctl train --task ecg --virtual 5 --strategy winsorised-mean --strategy-args share=0.2
"""

from collections.abc import Iterator
from typing import Annotated

import numpy as np
from msgspec import Meta

from flctl.core.strategies import Array, Floats, Strategy, Weights


class WinsorisedMean(Strategy, frozen=True):
    """Dixon 1960, "Simplified Estimation from Censored Normal Samples": the extreme numbers at
    each place count as the most extreme of those that remain."""

    summary = "the mean of each number, extremes drawn in"
    paper = "Dixon 1960"
    weighs, robust, ranks = False, True, True

    share: Annotated[float, Meta(ge=0, lt=0.5)] = 0.2
    """Of the updates, drawn in at each end."""

    def combine(self, parts: Iterator[Array], weights: Weights) -> Floats:
        values = np.sort(np.stack([np.asarray(part, np.float64) for part in parts]), axis=0)
        cut = int(self.share * len(values) + 1e-9)
        return np.asarray(values.clip(values[cut], values[len(values) - 1 - cut]).mean(axis=0))
