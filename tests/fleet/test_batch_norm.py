"""A model with batch normalisation, over compressed updates and against hostile ones.

Its running statistics are no weights: rounded like those, a variance comes out below zero.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from flctl.fleet.replay import replay
from flctl.fleet.virtual import VirtualRun
from flctl.learning.classification import Classification
from flctl.learning.examples import Examples

ROUNDS = 12


class Points(Classification):
    """Measurements of very different sizes, which only normalisation tames."""

    name = "points"
    classes = ("a", "b", "c", "d")
    defaults = {"batch_size": 16, "lr": 0.05, "epochs": 3}  # noqa: RUF012

    def model(self) -> nn.Module:
        return nn.Sequential(
            nn.BatchNorm1d(8), nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4)
        )

    def train_data(self, path: Path | None) -> Examples:
        return points(1, 640)

    def held_out(self, path: Path | None) -> Examples:
        return points(2, 1000)


def points(seed: int, count: int) -> Examples:
    draw = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 4, (count,), generator=draw)
    x = torch.randn((count, 8), generator=draw) + 2 * nn.functional.one_hot(y, 8)
    return Examples(x * 10 ** torch.linspace(-1, 2, 8) + 5, y, classes=4, where="made up")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> float:
    return accuracy(tmp_path_factory.mktemp("plain"))


def run(state: Path, **given: Any) -> VirtualRun:
    wanted = {"task": f"{__name__}:Points", "virtual": 4, "rounds": ROUNDS, "seed": 3, **given}
    made = VirtualRun.start(state, wanted, "the test")
    history = made.run()
    assert history.state == "finished", history.reason
    return made


def accuracy(state: Path, **given: Any) -> float:
    score = run(state, **given).history.rounds[-1].metrics
    assert score is not None
    return score.values["accuracy"]


@pytest.mark.parametrize(
    "given", [{"compression": "fp16"}, {"compression": "int8"},
              {"compression": "topk"}], ids=str,
)  # fmt: skip
def test_compression_costs_less_than_a_point(tmp_path: Path, plain: float, given: dict[str, Any]):
    assert plain > 0.8
    assert accuracy(tmp_path, **given) > plain - 0.01


def test_a_limit_that_no_change_of_weights_reaches_changes_nothing_of_them(tmp_path: Path):
    """The statistics move by thousands, the weights by less than ten."""
    free, clipped = (run(tmp_path / name, **given, rounds=1) for name, given in
                     (("free", {"strategy": "median"}),
                      ("clipped", {"strategy": "median", "clip_norm": 10.0})))  # fmt: skip
    assert free.history.base == clipped.history.base


@pytest.mark.parametrize("compression", ["int8", "topk"])
def test_its_replay_is_the_same_bytes(tmp_path: Path, compression: str):
    made = run(tmp_path, compression=compression, rounds=3)
    rows = replay(made.folder, {})
    assert len(rows) == 4 and all(row.same for row in rows)
