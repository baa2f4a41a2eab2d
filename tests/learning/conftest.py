"""A small task whose runs take milliseconds, and data for it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from flctl.learning.classification import Classification
from flctl.learning.examples import Examples


class Blobs(Classification):
    """Three overlapping clouds of points in four dimensions."""

    name = "blobs"
    classes = ("a", "b", "c")

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))

    def train_data(self, path: Path | None) -> Examples:
        return make_points(90, seed=1)

    def held_out(self, path: Path | None) -> Examples | None:
        return make_points(31, seed=2)


def make_points(n: int, seed: int = 1) -> Examples:
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 3
    x = torch.randn(n, 4, generator=generator) + torch.eye(3, 4)[y] * 2
    return Examples(x, y, classes=3, group=[f"r{i % 7}" for i in range(n)], where="points")


@pytest.fixture
def blobs() -> Blobs:
    return Blobs()


@pytest.fixture
def points() -> Callable[..., Examples]:
    return make_points
