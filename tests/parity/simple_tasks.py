"""Tasks whose training can be computed by hand: a point that is pulled to the data."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from flctl.learning.classification import Classification
from flctl.learning.examples import Batch, Examples

GIVEN: list[list[float]] = []
"""Each batch that this process has trained on, as its values."""


class Point(nn.Module):
    """One number `at`, 0 at first; its distance to each x in both columns."""

    def __init__(self) -> None:
        super().__init__()
        self.at = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return (self.at - x).unsqueeze(1).expand(-1, 2)


class Pull(Classification):
    """One full batch of SGD with a learning rate of 1 ends at the mean of the agent's data."""

    name = "pull"
    classes = ("a", "b")
    validation_share = 0.0  # all of the data are trained on
    values: Sequence[float] = (0, 0, 8, 8, 8, 8, 8, 8)

    def model(self) -> nn.Module:
        return Point()

    def train_data(self, path: Path | None) -> Examples:
        x = torch.tensor(self.values, dtype=torch.float32)
        return Examples(
            x, torch.zeros(len(x), dtype=torch.int64), classes=2, group=[f"r{int(v)}" for v in x]
        )

    def inputs(self, x: Tensor, *, training: bool) -> Tensor:
        if training:
            GIVEN.append(x.tolist())
        return x

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return output[:, 0].square().mean() / 2


class Slope(Pull):
    """A loss of slope 1 everywhere: a step of SGD goes down by the learning rate."""

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return output[:, 0].mean()


class Rows(Pull):
    """Ten examples, each of which is its own number."""

    values = tuple(range(10))


class Collated(Rows):
    """Its batches are made by a process of its own, and are recognised by 100 more."""

    workers = 1

    def collate(self, examples: Sequence[Batch]) -> Batch:
        x, y = super().collate(examples)
        return x + 100, y
