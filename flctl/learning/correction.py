"""Corrects the probabilities of a classifier for where it is used.

What a model has learnt from is chosen: rare classes are often in it more than they occur. And it is
surer of itself than it is right. Both are known from the tables of a round's validation part,
sums over all agents: how many examples each class has, and how often the model is right where it
is how sure. So nothing else leaves an agent.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from flctl.core.metrics import CERTAIN, CONFIDENCE, confusion_of
from flctl.learning.classification import Classification
from flctl.learning.registry import installed_tasks
from flctl.learning.task import load_task

if TYPE_CHECKING:
    from torch import Tensor, nn

    from flctl.learning.task import Task
    from flctl.wire.messages import Table

CORRECTION = "correction"
"""Of a checkpoint's metadata."""
COLDEST, HOTTEST, STEPS = 0.25, 4.0, 97
"""Temperatures that are tried, evenly on a logarithmic scale."""


class Correction(Struct, frozen=True, forbid_unknown_fields=True):
    temperature: float
    """What logits are divided by (Guo et al. 2017, "On Calibration of Modern Neural Networks")."""
    prior: tuple[float, ...]
    """Share of each class in what the model has learnt from."""

    def shift(self, frequencies: Sequence[float]) -> NDArray[np.float64]:
        """What is added to the scores of the classes: the logarithm of how much more frequent
        each is where the model is used (Saerens et al. 2002, "Adjusting the Outputs of a Classifier
        to New a Priori Probabilities", eq. 2.4)."""
        shift: NDArray[np.float64] = np.log(np.array(frequencies) / np.array(self.prior))
        return shift


def fitted(counts: "Mapping[str, Table]") -> Correction | None:
    """The correction that the tables of a validation part ask for; None without such tables."""
    confusion, confidence = confusion_of(counts), counts.get(CONFIDENCE)
    if not confusion or not confidence:
        return None
    each = np.array([sum(row) + 1 for row in confusion], np.float64)  # of none there may be some
    prior = tuple(round(float(share), 6) for share in each / each.sum())
    return Correction(_temperature(np.array(confidence, np.float64), len(confusion)), prior)


def _temperature(table: NDArray[np.float64], classes: int) -> float:
    """The most likely one, for the mean confidence of each bin, and what is left of it spread
    evenly over the other classes; `table` has examples, hits and confidence of each bin."""
    n, hits, sure = table[table[:, 0] > 0].T
    p = np.clip(sure / (CERTAIN * n), 1 / classes + 1e-6, 1 - 1e-4)
    odds = np.log(p) - np.log((1 - p) / (classes - 1))
    tried = np.geomspace(COLDEST, HOTTEST, STEPS)
    margins = odds / tried[:, None] - math.log(classes - 1)
    loss = hits * np.logaddexp(0, -margins) + (n - hits) * np.logaddexp(0, margins)
    return round(float(tried[loss.sum(axis=1).argmin()]), 6)


def stored(metadata: Mapping[str, Any], classes: int) -> Correction | None:
    """The one that a checkpoint's metadata hold, if they hold one for so many classes."""
    try:
        found = msgspec.convert(metadata.get(CORRECTION), Correction)
    except msgspec.ValidationError:
        return None
    numbers = (found.temperature, *found.prior)
    fits = len(found.prior) == classes and all(0 < n < math.inf for n in numbers)
    return found if fits else None


def applies_to(task: "Task") -> bool:
    """Whether the task says how frequent its classes are."""
    return isinstance(task, Classification) and bool(task.frequencies)


def correction_of(task: str, counts: "Mapping[str, Table]") -> Correction | None:
    """What a model of the installed task `task` is stored with, whose validation part has these
    tables."""
    known = any(each.name == task for each in installed_tasks())
    return fitted(counts) if known and applies_to(load_task(task)) else None


def corrected(
    task: "Task", model: "nn.Module", correction: Correction | None
) -> "nn.Module | None":
    """`model` with `correction` behind it, for a task that says how frequent its classes are;
    None where there is nothing to correct."""
    if correction is None or not isinstance(task, Classification) or not applies_to(task):
        return None
    factor, shift = 1 / correction.temperature, correction.shift(task.frequencies)
    import torch
    from torch import nn

    class Corrected(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model
            self.register_buffer("shift", torch.tensor(shift, dtype=torch.float32))

        def forward(self, x: "Tensor") -> "Tensor":
            logits: Tensor = self.model(x) * factor + self.shift
            return logits

    return Corrected()
