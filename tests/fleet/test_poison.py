"""One of five agents sends poison: the mean is lost, the robust strategies are not."""

import importlib.util
from pathlib import Path

import pytest

from flctl.fleet.virtual import VirtualRun

_PATH = Path(__file__).parents[2] / "benchmarks" / "poison.py"
_SPEC = importlib.util.spec_from_file_location("poison", _PATH)
assert _SPEC is not None and _SPEC.loader is not None
poison = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(poison)

ROUNDS = 4


@pytest.fixture(scope="module")
def honest() -> float:
    """Accuracy of the mean of five honest agents with mixed data."""
    return poison.accuracy(VirtualRun, ROUNDS, seed=1, partition="iid")[0]


@pytest.mark.parametrize("strategy", ["median", "trimmed-mean", "krum", "multi-krum"])
def test_poison_costs_a_robust_strategy_little(strategy: str, honest: float):
    poisoned, _ = poison.accuracy(
        poison.PoisonedRun, ROUNDS, seed=1, partition="iid", strategy=strategy
    )
    assert poisoned > honest - 0.04, f"{honest:.3f} → {poisoned:.3f}"


def test_poison_costs_the_mean_everything(honest: float):
    poisoned, _ = poison.accuracy(poison.PoisonedRun, ROUNDS, seed=1, partition="iid")
    assert poisoned < honest - 0.10, f"{honest:.3f} → {poisoned:.3f}"
