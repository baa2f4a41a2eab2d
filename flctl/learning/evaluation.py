"""How good a model is: loss, accuracy, macro-F1, confusion."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from flctl.learning.examples import Examples
from flctl.learning.loader import in_order
from flctl.learning.task import Task
from flctl.wire.messages import Metrics


@torch.no_grad()
def evaluate(
    task: Task,
    model: nn.Module,
    examples: Examples,
    *,
    batch_size: int = 1000,
    device: torch.device | None = None,
) -> Metrics:
    """Metrics of `model` on `examples`; the model is left in evaluation mode, on `device`."""
    device = device or torch.device("cpu")
    model.to(device).eval()
    classes = len(task.classes)
    confusion = np.zeros((classes, classes), dtype=np.int64)
    loss = 0.0
    for batch in in_order(task, examples, batch_size):
        x, y = (part.to(device) for part in batch)
        output = model(task.inputs(x, training=False))
        loss += float(task.loss(output, y)) * len(y)
        cells = (y * classes + output.argmax(dim=1)).cpu().numpy()
        confusion += np.bincount(cells, minlength=classes**2).reshape(classes, classes)
    return metrics_of(confusion, loss / len(examples))


def metrics_of(confusion: NDArray[np.int64], loss: float) -> Metrics:
    """Figures from `confusion[target][prediction]`, which counts at least one example."""
    total = int(confusion.sum())
    return Metrics(
        loss=loss,
        accuracy=float(np.trace(confusion) / total),
        macro_f1=macro_f1(confusion),
        examples=total,
        confusion=tuple(tuple(int(n) for n in row) for row in confusion),
    )


def macro_f1(confusion: NDArray[np.int64]) -> float:
    """Mean F1 over the classes that occur as target or as prediction."""
    twice = 2.0 * np.diag(confusion)
    occurrences = confusion.sum(axis=0) + confusion.sum(axis=1)
    occurs = occurrences > 0
    return float(np.mean(twice[occurs] / occurrences[occurs]))
