import numpy as np
import pytest
import torch
from torch import nn

from flctl.learning.classification import Classification
from flctl.learning.evaluation import measured
from flctl.learning.examples import Examples


class Echo(Classification):
    """Its model's output is its input: logits of four classes."""

    name = "echo"
    classes = ("a", "b", "c", "d")

    def model(self) -> nn.Module:
        return nn.Identity()


def predicting(targets: list[int], predictions: list[int]) -> Examples:
    return Examples(torch.eye(4)[predictions] * 2, torch.tensor(targets), classes=4)


@pytest.mark.parametrize("batch_size", [1, 4, 1000])
def test_metrics_are_those_computed_by_hand(batch_size):
    """Six examples of classes a and b, one a taken for c; d does not occur and does not count."""
    examples = predicting([0, 0, 0, 1, 1, 1], [0, 0, 2, 1, 1, 0])
    metrics = measured(Echo(), nn.Identity(), examples, batch_size=batch_size)
    assert metrics.counts["classes"] == ((2, 0, 1, 0), (1, 2, 0, 0), (0, 0, 0, 0), (0, 0, 0, 0))
    assert metrics.values["accuracy"] == pytest.approx(4 / 6)
    # F1: a = 2·2/(3+3), b = 2·2/(3+2), c = 0.
    assert metrics.values["macro_f1"] == pytest.approx((4 / 6 + 4 / 5 + 0) / 3)
    right, wrong = np.log(np.e**2 + 3) - 2, np.log(np.e**2 + 3)
    assert metrics.values["loss"] == pytest.approx((4 * right + 2 * wrong) / 6)
    assert metrics.examples == 6


def test_evaluation_changes_neither_model_nor_gradients():
    """Batch norm is not updated, dropout is off, nothing is recorded for a gradient."""
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.5)).train()
    examples = predicting([0, 1, 2, 3], [0, 1, 2, 3])
    once = measured(Echo(), model, examples)
    assert int(model[0].num_batches_tracked) == 0
    assert measured(Echo(), model, examples) == once
    assert once.values["accuracy"] == 1.0
