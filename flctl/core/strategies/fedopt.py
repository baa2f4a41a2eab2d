"""Optimisers of the coordinator: the round's mean change Δ is taken as a gradient.

FedAvgM: Hsu et al. 2019, "Measuring the Effects of Non-Identical Data Distribution for
Federated Visual Classification". FedAdagrad, FedAdam, FedYogi: Reddi et al. 2021,
"Adaptive Federated Optimization", Algorithm 2. Here x is the model, m and v are the state
that goes from round to round, all of them element by element.
"""

from collections.abc import Callable
from typing import Annotated

import numpy as np
from msgspec import Meta

from flctl.core.strategies.averaging import Floats
from flctl.core.strategies.strategy import State, Strategy

Variance = Callable[[Floats, Floats], Floats]
"""The next v from the last and Δ²."""
Rate = Annotated[float, Meta(gt=0)]
Decay = Annotated[float, Meta(ge=0, lt=1)]


class FedAvgM(Strategy, frozen=True):
    summary = "the mean change with momentum"
    paper = "Hsu et al. 2019"
    steps = True

    server_lr: Rate = 1.0
    momentum: Decay = 0.9

    @property
    def initial(self) -> dict[str, float]:
        return {"momentum": 0.0}

    def step(self, before: Floats, change: Floats, state: State) -> Floats:
        """m ← βm + Δ;  x ← x + ηm"""
        m = state["momentum"] = self.momentum * state["momentum"] + change
        return before + self.server_lr * m


class _Adaptive(Strategy, frozen=True):
    paper = "Reddi et al. 2021"
    steps = True

    server_lr: Rate = 0.01
    beta1: Decay = 0.9
    tau: Rate = 1e-3
    """How adaptive: the smaller, the more."""

    @property
    def initial(self) -> dict[str, float]:
        """v₋₁ = τ², the least that the paper allows."""
        return {"momentum": 0.0, "variance": self.tau**2}

    def _step(self, x: Floats, delta: Floats, state: State, variance: Variance) -> Floats:
        """m ← β₁m + (1 − β₁)Δ;  x ← x + η m / (√v + τ)"""
        m = state["momentum"] = self.beta1 * state["momentum"] + (1 - self.beta1) * delta
        v = state["variance"] = variance(state["variance"], delta**2)
        return np.asarray(x + self.server_lr * m / (np.sqrt(v) + self.tau))


class FedAdagrad(_Adaptive, frozen=True):
    summary = "the mean change as the gradient of Adagrad"

    beta1: Decay = 0.0

    def step(self, before: Floats, change: Floats, state: State) -> Floats:
        """v ← v + Δ²"""
        return self._step(before, change, state, lambda v, square: v + square)


class FedYogi(_Adaptive, frozen=True):
    summary = "the mean change as the gradient of Yogi"

    beta2: Decay = 0.99

    def step(self, before: Floats, change: Floats, state: State) -> Floats:
        """v ← v − (1 − β₂) Δ² sign(v − Δ²)"""
        kept = 1 - self.beta2
        return self._step(
            before, change, state, lambda v, square: v - kept * square * np.sign(v - square)
        )


class FedAdam(_Adaptive, frozen=True):
    summary = "the mean change as the gradient of Adam"

    beta2: Decay = 0.99

    def step(self, before: Floats, change: Floats, state: State) -> Floats:
        """v ← β₂v + (1 − β₂)Δ²"""
        beta2 = self.beta2
        return self._step(before, change, state, lambda v, square: beta2 * v + (1 - beta2) * square)
