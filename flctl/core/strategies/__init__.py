"""How the updates of a round become the next model: one file for each paper."""

from flctl.core.strategies.averaging import Floats, Weights, weigh
from flctl.core.strategies.combining import combine, state_specs
from flctl.core.strategies.registry import (
    check_fits,
    installed_strategies,
    strategy_class,
    strategy_of,
)
from flctl.core.strategies.strategy import State, Strategy
from flctl.wire.parameters import Array

__all__ = [
    "Array",
    "Floats",
    "State",
    "Strategy",
    "Weights",
    "check_fits",
    "combine",
    "installed_strategies",
    "state_specs",
    "strategy_class",
    "strategy_of",
    "weigh",
]
