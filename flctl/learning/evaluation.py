"""How good a model is: loss, accuracy, macro-F1, confusion."""

import numpy as np
import torch
from torch import nn

from flctl.core.metrics import from_confusion
from flctl.learning.examples import Examples
from flctl.learning.guard import forward
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
        output = forward(task, model, task.inputs(x, training=False))
        loss += float(task.loss(output, y)) * len(y)
        cells = (y * classes + output.argmax(dim=1)).cpu().numpy()
        confusion += np.bincount(cells, minlength=classes**2).reshape(classes, classes)
    return from_confusion(loss / len(examples), confusion.tolist())
