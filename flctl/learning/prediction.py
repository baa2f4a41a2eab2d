"""What a model says of examples, one by one."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from flctl.learning.examples import Examples
from flctl.learning.guard import forward
from flctl.learning.loader import in_order
from flctl.learning.task import Task


@torch.no_grad()
def predict(
    task: Task,
    model: nn.Module,
    examples: Examples,
    *,
    batch_size: int = 1000,
    device: torch.device | None = None,
) -> NDArray[np.float32]:
    """The probability of each class, shape (n, classes), rows that sum to 1.

    The model is left in evaluation mode, on `device`.
    """
    device = device or torch.device("cpu")
    model.to(device).eval()
    outputs = [
        task.probabilities(forward(task, model, task.inputs(x.to(device), training=False)))
        .float()
        .cpu()
        for x, _ in in_order(task, examples, batch_size)
    ]
    found: NDArray[np.float32] = torch.cat(outputs).numpy()
    return found
