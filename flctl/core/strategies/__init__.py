"""How the updates of a round become the next model: one file for each paper."""

from flctl.core.strategies.choice import Strategy, strategy_of
from flctl.core.strategies.combining import combine, state_specs
from flctl.core.strategies.fedavg import Weights, weigh
from flctl.core.strategies.slices import Tensors

__all__ = ["Strategy", "Tensors", "Weights", "combine", "state_specs", "strategy_of", "weigh"]
