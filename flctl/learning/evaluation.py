"""How good a model is: loss, accuracy, macro-F1, counts by class."""

import torch
from torch import nn

from flctl.core.metrics import Tally
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
    tally, loss = Tally(len(task.classes)), 0.0
    for batch in in_order(task, examples, batch_size):
        x, y = (part.to(device) for part in batch)
        output = forward(task, model, task.inputs(x, training=False))
        loss += float(task.loss(output, y)) * len(y)
        tally.add(y.cpu().numpy(), output.argmax(dim=1).cpu().numpy())
    return tally.metrics(loss / len(examples))
