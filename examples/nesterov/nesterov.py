"""A strategy that keeps a state: the mean change with Nesterov's momentum.

pip install ./examples/nesterov     # on the coordinator, or the machine that simulates
flctl train --task ecg --virtual 5 --strategy nesterov --strategy-args momentum=0.5
"""

from typing import Annotated

from msgspec import Meta

from flctl.core.strategies import Floats, State, Strategy


class Nesterov(Strategy, frozen=True):
    summary = "the mean change with Nesterov's momentum"
    steps = True

    momentum: Annotated[float, Meta(ge=0, lt=1)] = 0.9

    @property
    def initial(self) -> dict[str, float]:
        return {"velocity": 0.0}

    def step(self, before: Floats, change: Floats, state: State) -> Floats:
        """v ← βv + Δ;  x ← x + Δ + βv"""
        v = state["velocity"] = self.momentum * state["velocity"] + change
        return before + change + self.momentum * v
