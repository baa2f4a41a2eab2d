"""Tasks that cost no processor time: a vector that is pulled towards an agent's numbers.

The file named by FLCTL_FAULTS_PACE steers a worker while it works: seconds to sleep before
each batch, or "eat": take memory until there is no more, once.
"""

import contextlib
import os
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from flctl.errors import DataError
from flctl.learning.classification import Classification
from flctl.learning.examples import Examples


class Vector(nn.Module):
    """Both outputs are the distance of a weighted sum of `at` to each x."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.at = nn.Parameter(torch.zeros(size))
        self.register_buffer("weights", torch.linspace(0.5, 1.5, size) / size**0.5)

    def forward(self, x: Tensor) -> Tensor:
        return ((self.at * self.weights).sum() - x).unsqueeze(1).expand(-1, 2)


class Specks(Classification):
    """A model of 4 KiB."""

    name = "specks"
    classes = ("a", "b")
    size = 512

    def model(self) -> nn.Module:
        return Vector(self.size)

    def train_data(self, path: Path | None) -> Examples:
        """A text file with a number a line."""
        return self._read(path)

    def held_out(self, path: Path | None) -> Examples | None:
        return self._read(path)

    def test_parts(self, path: Path | None) -> dict[str, Examples]:
        return {} if path is None else {"test": self._read(path)}

    def inputs(self, x: Tensor, *, training: bool) -> Tensor:
        keep_pace()
        return x

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return output[:, 0].square().mean() / 2

    def _read(self, path: Path | None) -> Examples:
        if path is None:
            raise DataError("name a file with --data")
        x = torch.tensor([float(line) for line in path.read_text().split()])
        return Examples(x, torch.zeros(len(x), dtype=torch.int64), classes=2)


class Boulder(Specks):
    """A model of 600 KiB: it travels in several chunks."""

    name = "boulder"
    size = 75_000


class Apart(Vector):
    """With a number of its own beside the vector."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.own = nn.Parameter(torch.zeros(100))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - self.own.sum() / 10)


class Hermit(Boulder):
    """Each agent keeps a part of the model for itself."""

    name = "hermit"
    private = ("own",)

    def model(self) -> nn.Module:
        return Apart(self.size)


class Hill(Specks):
    """A model of 1.72 MB, as large as the MNIST one."""

    name = "hill"
    size = 215_000


class Mountain(Specks):
    """A model of 6 MB: longer than what is on the way at a time."""

    name = "mountain"
    size = 800_000


def keep_pace() -> None:
    path = os.environ.get("FLCTL_FAULTS_PACE")
    if path is None:
        return
    with contextlib.suppress(FileNotFoundError):
        pace = Path(path).read_text().strip()
        if pace == "eat":
            Path(path).unlink()
            eaten = []
            while True:
                eaten.append(b"\1" * 2**24)
        time.sleep(float(pace or 0))
