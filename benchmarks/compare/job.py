"""The two jobs, which every system is given: data, clients, models, settings. No federated code.

Clients are those of one permutation of MNIST's 60,000 training images, cut into equal parts.
"""

import gzip
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

BATCH, PER_ROUND, TEST_BATCH = 10, 10, 1000
FILES = {"train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
         "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz")}  # fmt: skip


class Job(NamedTuple):
    clients: int
    rounds: int
    lr: float
    every: int
    """Rounds between two tests; 0: none."""


JOBS = {
    "lr": Job(clients=1000, rounds=100, lr=0.03, every=20),
    "cnn": Job(clients=100, rounds=30, lr=0.1, every=0),
    "fleet": Job(
        clients=1000, rounds=6, lr=0.1, every=0
    ),  # as many as there are processes take part
}


def images(folder: str, part: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Shape (n, 28, 28) and (n,)."""
    pixels, labels = (gzip.decompress((Path(folder) / name).read_bytes()) for name in FILES[part])
    x = np.frombuffer(pixels, np.uint8, offset=16).reshape(-1, 28, 28)
    return x, np.frombuffer(labels, np.uint8, offset=8)


def tensors(folder: str, part: str) -> tuple[Tensor, Tensor]:
    """Pixels as they are in the files, and targets."""
    x, y = images(folder, part)
    return torch.from_numpy(x.copy()), torch.from_numpy(y.copy()).long()


def scaled(x: Tensor) -> Tensor:
    """What a model takes; each system does it batch by batch, so that none holds the data twice."""
    return ((x.float() / 255 - 0.1307) / 0.3081).unsqueeze(1)


def shards(clients: int, seed: int) -> list[NDArray[np.int64]]:
    """Rows of each client."""
    order = np.random.default_rng(seed).permutation(60_000)
    return np.array_split(order, clients)


def model(job: str) -> nn.Sequential:
    if job == "lr":
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    return nn.Sequential(  # McMahan et al. 2017
        nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, 10),
    )  # fmt: skip


def train(net: nn.Module, x: Tensor, y: Tensor, lr: float) -> float:
    """One epoch of SGD over a client's examples in a new order; the mean loss."""
    net.train()
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    total, batches = 0.0, torch.randperm(len(y)).split(BATCH)
    for rows in batches:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(scaled(x[rows])), y[rows])
        loss.backward()
        optimizer.step()
        total += float(loss.detach())
    return total / len(batches)


@torch.no_grad()
def test(net: nn.Module, x: Tensor, y: Tensor) -> dict[str, float]:
    net.eval()
    right = loss = 0.0
    for a, b in zip(x.split(TEST_BATCH), y.split(TEST_BATCH), strict=True):
        output = net(scaled(a))
        loss += float(nn.functional.cross_entropy(output, b, reduction="sum"))
        right += float((output.argmax(1) == b).sum())
    return {"loss": loss / len(y), "accuracy": right / len(y)}


def save(state: dict[str, Any], folder: str) -> None:
    torch.save({name: torch.as_tensor(value) for name, value in state.items()},
               Path(folder) / "final.pt")  # fmt: skip
