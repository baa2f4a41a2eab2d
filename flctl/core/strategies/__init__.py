"""How the updates of a round become the next model: one file for each paper."""

from flctl.core.strategies.averaging import Weights, weigh
from flctl.core.strategies.combining import combine, state_specs
from flctl.core.strategies.registry import (
    check_fits,
    installed_strategies,
    strategy_class,
    strategy_of,
)
from flctl.core.strategies.strategy import Strategy

__all__ = [
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
