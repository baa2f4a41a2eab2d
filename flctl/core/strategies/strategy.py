"""What a strategy is. `flctl.core.strategies.combining` runs it, slice by slice."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from flctl.core.strategies.averaging import Floats, Weights, mean
from flctl.wire.parameters import Array

State = dict[str, Floats]
"""What `step` keeps, by name: an array for this slice, float32 between rounds."""


class Strategy(Struct, frozen=True, forbid_unknown_fields=True):
    """How the updates of a round become the next model. The fields are its `strategy_args`.

    A subclass in one file is a strategy; its package names it in the entry point group
    `flctl.strategies`. Override what differs from the weighted mean of all updates:
    `choose` (with `chooses`), `combine`, and `step` (with `steps`), which run in this order.
    """

    summary: ClassVar[str] = ""
    """One line for --help and the documentation."""
    paper: ClassVar[str] = ""
    training: ClassVar[Mapping[str, Any]] = {}
    """Settings of local training that it needs, where a run does not say otherwise."""
    weighs: ClassVar[bool] = True
    """Whether updates count by their weights."""
    robust: ClassVar[bool] = False
    """Whether it holds against hostile updates. Integers then have one vote for each agent."""
    ranks: ClassVar[bool] = False
    """Whether `combine` sorts what the agents sent at each place: it then gets small slices of
    all updates, and is not used with sparse updates."""
    chooses: ClassVar[bool] = False
    steps: ClassVar[bool] = False

    @property
    def initial(self) -> Mapping[str, float]:
        """What `step` keeps from round to round, by name, and its value before the first round."""
        return {}

    @property
    def fewest(self) -> int:
        """Updates that a round needs."""
        return 1

    def choose(self, distances: Floats) -> NDArray[np.intp]:
        """Indices, ascending, of the updates that count; all with the same weight.

        `distances`: [K, K], squared, between the learnt tensors of all updates.
        """
        raise NotImplementedError

    def combine(self, parts: Iterator[Array], weights: Weights) -> Floats:
        """One slice of the model from this slice of each update; `weights` sum to 1."""
        return mean(parts, weights)

    def step(self, before: Floats, change: Floats, state: State) -> Floats:
        """The model from the one `before` and the combined change; replaces values of `state`."""
        raise NotImplementedError
