"""The correction of a classifier's probabilities, from the tables of a validation part."""

import numpy as np
import pytest
import torch
from torch import nn

from flctl.core.metrics import CLASSES, CONFIDENCE
from flctl.learning.correction import Correction, corrected, fitted, stored
from flctl.learning.ecg import Ecg
from flctl.learning.evaluation import Tally
from flctl.learning.mnist import Mnist


def tables(logits, targets):
    """As an agent counts them."""
    tally = Tally(Ecg().measures)
    shares = torch.from_numpy(logits).softmax(1).numpy()
    tally.add_classes(targets, shares.argmax(1))
    tally.add_confidence(shares.argmax(1) == targets, shares.max(1))
    return {name: tuple(map(tuple, table.tolist())) for name, table in tally.tables.items()}


@pytest.mark.parametrize("hot", [0.5, 1.0, 2.0])
def test_the_temperature_that_makes_a_model_too_sure_is_found(hot):
    """Of targets that are drawn from the softmax of some logits, which are then multiplied."""
    draw = np.random.default_rng(1)
    logits = np.zeros((20_000, 5))
    logits[np.arange(20_000), draw.integers(0, 5, 20_000)] = draw.uniform(0, 5, 20_000)
    shares = torch.from_numpy(logits).softmax(1).numpy()
    targets = (draw.random((20_000, 1)) > shares.cumsum(1)).sum(1).clip(0, 4)
    found = fitted(tables(logits * hot, targets))
    assert found.temperature == pytest.approx(hot, rel=0.1)
    assert found.prior == pytest.approx((np.bincount(targets, minlength=5) + 1) / 20_005, abs=1e-5)


def test_a_class_that_is_rarer_in_use_than_in_training_is_said_less_often():
    """By the ratio of both, and never where the task does not say what is frequent."""
    task, model = Ecg(), nn.Identity()
    correction = Correction(temperature=2.0, prior=(0.2,) * 5)
    better = corrected(task, model, correction)
    logits = torch.tensor([[0.0, 1.0, 0.0, 0.0, 0.0]])
    weighed = (logits / 2).exp() * torch.tensor(task.frequencies) / 0.2
    torch.testing.assert_close(better(logits).softmax(1), weighed / weighed.sum())
    assert corrected(Mnist(), model, correction) is None
    assert corrected(task, model, None) is None


def test_without_its_tables_there_is_no_correction():
    """Tasks of more classes, or of another kind, have none of these."""
    draw = np.random.default_rng(1)
    counts = tables(draw.normal(size=(50, 5)), draw.integers(0, 5, 50))
    assert fitted(counts) is not None
    for missing in (CLASSES, CONFIDENCE):
        assert fitted({name: table for name, table in counts.items() if name != missing}) is None


@pytest.mark.parametrize(
    "held",
    [
        None,
        "a text",
        {"temperature": 1.0},
        {"temperature": 0.0, "prior": [0.2] * 5},
        {"temperature": 1.0, "prior": [0.5] * 2},
        {"temperature": 1.0, "prior": [0.2] * 4 + [-1.0]},
        {"temperature": 1.0, "prior": [0.2] * 5, "more": 1},
    ],
)
def test_what_is_no_correction_is_not_taken_from_a_file(held):
    """Anybody may have written its metadata."""
    assert stored({"correction": held}, 5) is None
    whole = {"temperature": 1.5, "prior": [0.2] * 5}
    assert stored({"correction": whole}, 5) == Correction(1.5, (0.2,) * 5)
