"""Predictions of a model for single examples."""

from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from flctl.learning.examples import Examples
from flctl.learning.guard import forward
from flctl.learning.loader import in_order, moved
from flctl.learning.task import Task


@torch.no_grad()
def predict(
    task: Task,
    model: nn.Module,
    examples: Examples,
    *,
    batch_size: int = 1000,
    device: torch.device | None = None,
) -> NDArray[Any]:
    """What the task's `predicted` makes of the model's outputs, shape (n, …): probabilities as
    float32, numbers as float64.

    The model is left in evaluation mode, on `device`.
    """
    device = device or torch.device("cpu")
    model.to(device).eval()
    outputs = [
        task.predicted(forward(task, model, task.inputs(moved(x, device), training=False))).cpu()
        for x, _ in in_order(task, examples, batch_size)
    ]
    found = torch.cat(outputs)
    exact: NDArray[Any] = (
        found.float() if task.says in ("class", "labels") else found.double()
    ).numpy()
    return exact
