"""How good a model is: the sums that its metrics need, over some examples."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from msgspec.structs import replace
from numpy.typing import NDArray
from torch import Tensor, nn

from flctl.core.metrics import (
    BINS,
    CERTAIN,
    CLASSES,
    CONFIDENCE,
    CONFIDENCE_BINS,
    CONFUSION,
    ERROR_BINS,
    ERROR_ROW,
    ERRORS,
    FIRST_EXPONENT,
    LABELS,
    LOSS,
    PER_OCTAVE,
    SCORES,
    metrics_of,
    pooled,
    tables,
)
from flctl.learning.classification import Classification, MultiLabel
from flctl.learning.examples import Examples
from flctl.learning.guard import expect_labelled, forward
from flctl.learning.loader import in_order, moved
from flctl.learning.summed import SummedMetrics
from flctl.learning.task import Task
from flctl.wire.messages import Measures, Metrics, Moments, Sums


@torch.no_grad()
def evaluate(
    task: Task,
    model: nn.Module,
    examples: Examples,
    *,
    batch_size: int = 1000,
    device: torch.device | None = None,
    only: int | None = None,
) -> Sums:
    """Sums of `model` on `examples`, or on their batch number `only`; the model is left in
    evaluation mode, on `device`."""
    expect_labelled(task, examples)
    device = device or torch.device("cpu")
    model.to(device).eval()
    tally, summed = Tally(task.measures), SummedMetrics(task)
    for batch in in_order(task, examples, batch_size, only):
        x, y = moved(batch, device)
        output = forward(task, model, task.inputs(x, training=False))
        summed.add(output, y)
        tally.add_means(task.figures(output, y), float(task.loss(output, y)), len(y))
        targets = y.cpu().numpy()
        if isinstance(task, MultiLabel):
            tally.add_labels(targets, task.fits(task.probabilities(output).cpu().numpy()))
        elif isinstance(task, Classification):
            said = output.argmax(dim=1).cpu().numpy()
            tally.add_classes(targets, said)
            if tally.tables.keys() & {SCORES, CONFIDENCE}:
                shares = task.probabilities(output).double().cpu().numpy()
                tally.add_scores(targets, shares)
                tally.add_confidence(targets == said, shares[np.arange(len(said)), said])
        elif ERRORS in tally.tables:
            tally.add_errors(targets, task.predicted(output).double().cpu().numpy())
    return replace(tally.sums(), states=summed.states())


def measured(task: Task, model: nn.Module, examples: Examples, **how: Any) -> Metrics:
    """Metrics of the sums that `evaluate` finds."""
    sums = evaluate(task, model, examples, **how)
    return metrics_of(sums, task.measures, SummedMetrics(task).values)


class Tally:
    """Adds up the sums of one evaluation; memory grows with the classes and the batches alone."""

    def __init__(self, measures: Measures) -> None:
        self._classes = measures.classes
        self.tables = {name: np.zeros(at, np.int64) for name, at in tables(measures).items()}
        self._means: dict[str, list[Moments]] = {}

    def add_means(self, figures: Mapping[str, Tensor], loss: float, n: int) -> None:
        """`loss` is the mean over the batch, each of `figures` has a number for each example."""
        self._means.setdefault(LOSS.name, []).append(Moments(count=n, mean=loss))
        for name, each in figures.items():
            numbers = each.double()
            mean = float(numbers.mean())
            m2 = float(((numbers - mean) ** 2).sum())
            self._means.setdefault(name, []).append(Moments(count=n, mean=mean, m2=m2))

    def add_classes(self, targets: NDArray[np.int64], said: NDArray[np.int64]) -> None:
        """Count some examples: the class of each and the predicted one, by number."""
        n, table = self._classes, self.tables.get(CLASSES)
        if table is None:
            return
        if n <= CONFUSION:
            table += np.bincount(targets * n + said, minlength=n**2).reshape(n, n)
        else:
            ways = (targets[targets == said], targets, said)
            table += np.stack([np.bincount(way, minlength=n) for way in ways], axis=1)

    def add_scores(self, targets: NDArray[np.int64], shares: NDArray[np.float64]) -> None:
        """`shares` are the probabilities of each class, [examples, classes]."""
        if SCORES not in self.tables:
            return
        bins = np.clip(np.nan_to_num(shares) * BINS, 0, BINS - 1).astype(np.int64)
        others = targets[:, None] != np.arange(self._classes)
        rows = 2 * np.arange(self._classes) + others
        np.add.at(self.tables[SCORES], (rows, bins), 1)

    def add_confidence(self, right: NDArray[np.bool_], shares: NDArray[np.float64]) -> None:
        """`shares` are the probabilities of the predicted classes, which may be `right`."""
        if CONFIDENCE in self.tables:
            units = np.rint(np.clip(np.nan_to_num(shares), 0, 1) * CERTAIN).astype(np.int64)
            bins = np.minimum(units * CONFIDENCE_BINS // CERTAIN, CONFIDENCE_BINS - 1)
            new = np.stack([np.ones_like(units), right.astype(np.int64), units], axis=1)
            np.add.at(self.tables[CONFIDENCE], bins, new)

    def add_labels(self, targets: NDArray[np.int64], said: NDArray[np.bool_]) -> None:
        """`targets` are 0 or 1, `said` is what fits, both [examples, labels]."""
        if LABELS in self.tables:
            true = targets > 0
            self.tables[LABELS] += np.stack([w.sum(axis=0) for w in (said & true, true, said)], 1)

    def add_errors(self, targets: NDArray[np.int64], errors: NDArray[np.float64]) -> None:
        """How unusual each example is for the model; `targets` are 1 where it is an anomaly."""
        with np.errstate(divide="ignore", invalid="ignore"):
            at = np.floor((np.log2(errors) - FIRST_EXPONENT) * PER_OCTAVE)
        bins = np.clip(np.nan_to_num(at, nan=ERROR_BINS), 0, ERROR_BINS - 1).astype(np.int64)
        rows = ERROR_BINS // ERROR_ROW * (targets > 0) + bins // ERROR_ROW
        np.add.at(self.tables[ERRORS], (rows, bins % ERROR_ROW), 1)

    def sums(self) -> Sums:
        means = {name: pooled(parts) for name, parts in self._means.items()}
        return Sums(
            examples=means[LOSS.name].count,
            means=means,
            counts={name: tuple(map(tuple, table.tolist())) for name, table in self.tables.items()},
        )
