"""The ready-made kinds of tasks: what they are measured by, pooled over agents."""

import math

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from torch import nn

from flctl import Anomaly, Examples, MultiLabel, Regression
from flctl.core.metrics import CONSTANTS, ERROR_BINS, ERRORS, merge, metrics_of
from flctl.core.plausible import verified
from flctl.errors import DataError
from flctl.learning.cases import Cases
from flctl.learning.dealing import count, kinds_of
from flctl.learning.declared import wrong_threshold
from flctl.learning.evaluation import evaluate, measured
from flctl.learning.prediction import predict
from flctl.learning.predictions import Labels
from flctl.learning.validation import parted
from flctl.wire.messages import Moments


class Volts(Regression):
    name = "volts"
    unit = "V"
    scale = 2.0

    def __init__(self, center: float = 0.0) -> None:
        self.center = center  # type: ignore[misc]

    def model(self) -> nn.Module:
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))

    def inputs(self, x, *, training):
        return x.float()


def numbers(n: int, offset: float = 0.0, seed: int = 1) -> Examples:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3))
    return Examples(x, offset + x @ [1.0, -2.0, 0.5] + rng.normal(size=n), where="volts.csv")


@pytest.mark.parametrize("offset", [0.0, 1e6, -1e6])
@pytest.mark.parametrize("centred", [True, False])
def test_pooled_figures_of_numbers_are_those_of_all_in_one_place(offset, centred):
    """To 1e-9, by NumPy in one place too, with targets far from zero."""
    task = Volts(offset if centred else 0.0)
    model, whole = task.model(), numbers(500, offset)
    parts = np.split(np.arange(500), [3, 4, 130, 333])
    sums = [evaluate(task, model, whole.select(rows), batch_size=64) for rows in parts]
    pooled = metrics_of(
        merge([verified(s, task.measures, len(r)) for s, r in zip(sums, parts, strict=True)]),
        task.measures,
    )
    central = measured(task, model, whole)
    with torch.no_grad():
        said = task.center + 2.0 * model(whole.x.float()).double().numpy()[:, 0]
    y = whole.targets
    by_hand = {
        "loss": np.mean(((y - said) / 2) ** 2),
        "mae": np.abs(y - said).mean(),
        "rmse": math.sqrt(((y - said) ** 2).mean()),
        "r2": 1 - ((y - said) ** 2).sum() / ((y - y.mean()) ** 2).sum(),
    }
    assert pooled.values == pytest.approx(central.values, rel=1e-9)
    assert pooled.values == pytest.approx(by_hand, rel=1e-9 if centred or not offset else 1e-6)
    assert pooled.units == {"mae": "V", "rmse": "V"}


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_beside_mae_stands_that_of_a_constant_answer(offset):
    """Near the least that there is, the median's; the same pooled as in one place. An agent that
    lacks it does not change the rest."""
    task, whole = Volts(offset), numbers(500, offset)
    model, y = task.model(), whole.targets
    parts = [evaluate(task, model, whole.select(r)) for r in np.split(np.arange(500), [3, 330])]
    merged = merge([verified(part, task.measures, 500) for part in parts])
    found = metrics_of(merged, task.measures)
    least = np.abs(y - np.median(y)).mean()
    assert least <= found.constant["mae"] < 1.01 * least
    assert found.constant == pytest.approx(measured(task, model, whole).constant, rel=1e-9)
    bare = {name: each for name, each in parts[1].means.items() if name not in CONSTANTS}
    older = verified(replace(parts[1], means=bare), task.measures, 500)
    some = metrics_of(merge([parts[0], older, parts[2]]), task.measures)
    assert "mae" not in some.constant and some.values == found.values
    below = {**parts[1].means, "constant_03": Moments(count=327, mean=-1.0)}
    with pytest.raises(ValueError, match="the constant_03 is negative"):
        verified(replace(parts[1], means=below), task.measures, 500)


def test_huber_counts_far_errors_linearly():
    task, output, target = Volts(), torch.zeros(2, 1), torch.tensor([2.0, 20.0])
    assert float(task.loss(output, target)) == (1 + 100) / 2
    task.huber = 1.0  # type: ignore[misc]
    assert float(task.loss(output, target)) == (0.5 + 9.5) / 2


def test_numbers_are_dealt_and_counted_by_ranges():
    """By tenths for a partition by label; people see round ranges in the task's unit."""
    whole = numbers(200)
    assert set(np.bincount(whole.labels)) <= {19, 20, 21} and whole.labels.max() == 9
    kinds = kinds_of(Volts(), [whole])
    assert kinds.noun == "range" and all(name.endswith(" V") for name in kinds.names)
    assert sum(count(whole, kinds).classes.values()) == 200
    for narrow in (np.full(5, 3.0), np.array([1e6, 1e6 + 1e-3]), np.array([0.0, 1e300])):
        found = kinds_of(Volts(), [Examples(np.zeros((len(narrow), 1)), narrow)])
        assert sum(count(Examples(np.zeros((len(narrow), 1)), narrow), found).classes.values())
    train, validation = parted(whole, 0.15)
    assert (len(train), len(validation)) == (170, 30)


def test_targets_that_are_no_numbers_are_refused():
    with pytest.raises(DataError, match="example 1 has a target with NaN"):
        Examples(torch.zeros(2, 1), torch.tensor([1.0, math.nan]))
    with pytest.raises(DataError, match="2 inputs but targets of shape"):
        Examples(torch.zeros(2, 1), torch.zeros(3))


class Odd(Anomaly):
    name = "odd"

    def model(self) -> nn.Module:
        return nn.Identity()

    def score(self, output, x):
        return x[:, 0]


def test_auroc_and_threshold_are_those_of_the_pooled_bins():
    """Whatever parts the scores came in; a hundredth of what is normal is above the threshold."""
    rng = np.random.default_rng(1)
    scores = np.concatenate([rng.gamma(2.0, 0.01, 900), rng.gamma(4.0, 0.02, 100)])
    scores[0], scores[-1] = 0.0, 1e30
    whole = Examples(scores[:, None], np.repeat([0, 1], [900, 100]), classes=2)
    mixed = rng.permutation(1000)
    task = Odd()
    parts = [evaluate(task, nn.Identity(), whole.select(rows)) for rows in np.split(mixed, [50])]
    merged = merge([verified(part, task.measures, 950) for part in parts])
    assert merged.counts == evaluate(task, nn.Identity(), whole).counts
    assert np.sum(merged.counts[ERRORS]) == 1000
    values = metrics_of(merged, task.measures).values
    normal, odd = scores[:900], scores[900:]
    right = np.mean((odd[:, None] > normal) + (odd[:, None] == normal) / 2)
    assert values["auroc"] == pytest.approx(right, abs=2e-3)
    assert (normal > values["threshold"]).mean() == pytest.approx(0.01, abs=0.003)
    assert values["loss"] == pytest.approx(np.float32(scores).astype(float).mean(), rel=1e-6)
    assert np.size(merged.counts[ERRORS]) == 2 * ERROR_BINS


def test_without_labels_there_is_a_threshold_and_no_auroc():
    """Shown as "-", and never the best."""
    found = measured(Odd(), nn.Identity(), Examples(torch.rand(50, 1)))
    assert found.values["auroc"] < -1e300 and 0.5 < found.values["threshold"] < 1.1


class Tags(MultiLabel):
    name = "tags"
    classes = ("red", "round", "ripe")

    def model(self) -> nn.Module:
        return nn.Identity()


def test_a_label_fits_from_its_own_threshold_on():
    """In the figures as in predictions; what is no threshold is refused by name."""
    said = torch.logit(torch.tensor([[0.2, 0.6, 0.9], [0.3, 0.5, 0.4]], dtype=torch.float64))
    whole, cases = Examples(said, y := torch.tensor([[1, 0, 1], [1, 1, 0]])), torch.arange(2)
    for threshold, table in ((0.5, ((0, 2, 0), (1, 1, 2), (1, 1, 1))),
                             ((0.25, 0.55, 0.4), ((1, 2, 1), (0, 1, 1), (1, 1, 2)))):  # fmt: skip
        task = Tags()
        task.threshold = threshold
        assert evaluate(task, nn.Identity(), whole).counts["labels"] == table
        found = Labels(task, Cases(whole), predict(task, nn.Identity(), whole))
        told = [[name in found.plain()["predictions"][at]["labels"] for name in task.classes]
                for at in cases]  # fmt: skip
        assert [sum(column) for column in zip(*told, strict=True)] == [row[2] for row in table]
        assert found.counts == dict(zip(task.classes, [row[2] for row in table], strict=True))
        assert y.shape == said.shape
    for wrong in ((0.5, 0.5), 0, 1.5, "half", (0.1, 0.2, -1)):
        task.threshold = wrong
        assert "above 0 up to 1, or one for each label" in wrong_threshold(task)


def test_labels_are_counted_one_by_one():
    """Precision, recall and macro-F1 of each label; pooled as in one place."""
    y = torch.tensor([[1, 0, 1], [0, 0, 1], [1, 1, 0], [0, 0, 0]])
    said = torch.tensor([[2.0, -1, 1], [3.0, -2, 1], [1.0, -1, -1], [-1.0, -1, 4]])
    whole, task = Examples(said, y), Tags()
    assert task.wrong_examples(whole) == ""
    parts = [
        evaluate(task, nn.Identity(), whole.select(np.array(rows))) for rows in ([0, 3], [1, 2])
    ]
    merged = merge([verified(part, task.measures, 2) for part in parts])
    assert merged.counts == {"labels": ((2, 2, 3), (0, 1, 0), (2, 2, 3))}
    found = metrics_of(merged, task.measures)
    assert found.values["macro_f1"] == pytest.approx((0.8 + 0 + 0.8) / 3)
    assert found.values == pytest.approx(measured(task, nn.Identity(), whole).values, rel=1e-6)
    kinds = kinds_of(task, [whole])
    assert count(whole, kinds).classes == {"red": 2, "round": 1, "ripe": 2}
