"""Metrics of torchmetrics: those whose states add up give the central value, others are refused."""

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from flctl.core.metrics import merge, metrics_of
from flctl.core.plausible import verified
from flctl.errors import TaskError
from flctl.learning.classification import Classification
from flctl.learning.declared import wrong_measures
from flctl.learning.evaluation import evaluate, measured
from flctl.learning.examples import Examples
from flctl.learning.regression import Regression
from flctl.learning.summed import SummedMetrics
from flctl.learning.vision import import_torchvision
from flctl.wire.messages import Measures, Metric, Sums
from flctl.worker import execution
from flctl.worker.jobs import DeriveJob

LOSS = Metric("loss", lower=True)


def theirs():
    import_torchvision()  # which torchmetrics loads where it is, and whose operators may lack here
    import torchmetrics

    return torchmetrics


class Kinds(Classification):
    name, classes = "kinds", ("a", "b", "c")
    metrics = (LOSS, Metric("accuracy"), Metric("mcc"), Metric("auc"), Metric("kappa"))
    primary = "mcc"

    def model(self) -> nn.Module:
        return nn.Linear(4, 3)

    def torchmetrics(self):
        all_ = theirs()
        three = {"task": "multiclass", "num_classes": 3}
        return {
            "mcc": all_.MatthewsCorrCoef(**three),
            "auc": all_.AUROC(thresholds=50, **three),
            "kappa": all_.CohenKappa(**three),
        }


class Numbers(Regression):
    name = "numbers"
    metrics = (LOSS, Metric("mape", lower=True), Metric("explained"))

    def model(self) -> nn.Module:
        return nn.Linear(4, 1)

    def torchmetrics(self):
        return {
            "mape": theirs().MeanAbsolutePercentageError(),
            "explained": theirs().R2Score(),
        }


def examples(task, n=300) -> Examples:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(n, 4)).astype(np.float32)
    if task.says == "class":
        return Examples(x, rng.integers(0, 3, n), classes=3)
    return Examples(x, (x.sum(axis=1) + rng.normal(size=n) + 20).astype(np.float32))


@pytest.mark.parametrize("kind", [Kinds, Numbers])
def test_merged_states_give_the_central_value(kind):
    """Of three agents of unlike size; as torchmetrics says of all examples at once."""
    task = kind()
    torch.manual_seed(2)
    model, whole = task.model(), examples(task)
    parts = [np.arange(0, 40), np.arange(40, 41), np.arange(41, 300)]
    sums = [
        verified(evaluate(task, model, whole.select(rows), batch_size=64), task.measures, len(rows))
        for rows in parts
    ]
    derive = SummedMetrics(task).values
    merged = metrics_of(merge(sums), task.measures, derive).values
    assert metrics_of(merge(sums[::-1]), task.measures, derive).values == merged
    assert measured(task, model, whole).values == pytest.approx(merged, rel=1e-6)
    with torch.no_grad():
        output = task.predicted(model(torch.from_numpy(whole.array)))
    for name, metric in task.torchmetrics().items():
        metric.set_dtype(torch.float64)
        metric.update(output, torch.from_numpy(whole.targets))
        assert merged[name] == pytest.approx(float(metric.compute()), rel=1e-6), name


def refused(make, name="mcc") -> str:
    class Odd(Kinds):
        def torchmetrics(self):
            return {name: make(theirs())}

    with pytest.raises(TaskError) as caught:
        _ = Odd().measures
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_raw_predictions_do_not_leave_an_agent():
    """States of kind cat, with one line that says what to do."""
    said = refused(lambda m: m.AUROC(task="multiclass", num_classes=3))
    assert "'mcc' keeps the raw predictions ('preds' is a list, of kind cat)" in said
    assert "with thresholds for example" in said


@pytest.mark.parametrize(
    ("make", "name", "why"),
    [
        (lambda m: m.PearsonCorrCoef(), "mcc", "has states that do not add up"),
        (lambda m: m.MaxMetric(), "mcc", "has states that do not add up"),
        (lambda m: m.MeanMetric(), "accuracy", "has the name of a metric of flctl's"),
        (lambda m: m.MeanMetric(), "other", "'other' is not among its 'metrics'"),
        (lambda m: 3, "mcc", "is int, no metric of torchmetrics"),
        (lambda m: m.AUROC(task="multiclass", num_classes=3, thresholds=2000), "mcc", "at most"),
        (lambda m: 1 / 0, "mcc", "division by zero"),
    ],
)
def test_what_cannot_be_added_up_is_refused(make, name, why):
    assert why in refused(make, name)


def test_a_figure_is_a_single_number():
    """Not one for each class."""

    class Each(Kinds):
        metrics = (LOSS, Metric("f1"))
        primary = "f1"

        def torchmetrics(self):
            return {"f1": theirs().F1Score(task="multiclass", num_classes=3, average=None)}

    task = Each()
    with pytest.raises(TaskError, match="'f1' gives no single number; choose an average"):
        measured(task, task.model(), examples(task))


def test_a_task_without_them_is_as_before():
    """torchmetrics is not even looked for, and its sums have no states."""

    class Plain(Kinds):
        metrics = Classification.metrics
        primary = "loss"
        torchmetrics = Classification.torchmetrics

    task = Plain()
    assert task.measures.states == {} and not wrong_measures(Plain)
    assert evaluate(task, task.model(), examples(task)).states == {}


@pytest.mark.parametrize(
    "states", [{}, {"mcc": (1.0,)}, {"mcc": (1.0, float("nan"))}, {"mcc": (1.0, 2.0), "x": (1.0,)}]
)
def test_states_that_an_agent_cannot_have_are_refused(states):
    """As all sums of the network."""
    measures = Measures(metrics=(LOSS, Metric("mcc")), primary="loss", classes=2, states={"mcc": 2})
    good = Sums(
        examples=4,
        means={"loss": {"count": 4, "mean": 1.0}},
        counts={},
        states={"mcc": (1.0, 2.0)},
    )
    good = msgspec.convert(msgspec.to_builtins(good), Sums)
    assert verified(good, measures, 4) == good
    with pytest.raises(ValueError, match="state"):
        verified(msgspec.structs.replace(good, states=states), measures, 4)


def test_the_coordinators_worker_computes_them(monkeypatch):
    """It has torch, and the task's code."""
    task = Kinds()
    monkeypatch.setattr(execution, "load_task", lambda ref, args: task)
    whole, model = examples(task), task.model()
    done = execution.Executor().derive(DeriveJob(task="kinds", sums=evaluate(task, model, whole)))
    assert done.values.keys() == {"mcc", "auc", "kappa"}
    assert done.values.items() <= measured(task, model, whole).values.items()


def test_a_batch_does_not_take_gigabytes(monkeypatch):
    """Where torch is to be deterministic, torchmetrics compares each number with each bin."""
    task = Kinds()
    seen: list[bool] = []
    metrics = task.torchmetrics()
    update = metrics["auc"].update

    def watched(*given):
        seen.append(torch.are_deterministic_algorithms_enabled())
        update(*given)

    metrics["auc"].update = watched
    monkeypatch.setattr(task, "torchmetrics", lambda: metrics)
    torch.use_deterministic_algorithms(True)
    try:
        evaluate(task, task.model(), examples(task))
        assert seen == [False] and torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
