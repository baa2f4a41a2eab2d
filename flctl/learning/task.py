"""What a user writes to teach a fleet something new: a `Task`.

A whole one is about forty lines: the model, where an agent's data come from, and the
names of the classes. See `flctl.learning.mnist` for an example.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from flctl.core.randomness import derive
from flctl.errors import TaskError, UnknownTask
from flctl.learning.examples import Batch, Examples
from flctl.learning.registry import locate

Loss = Callable[[Tensor, Tensor], Tensor]
"""Model's output and targets (int64, shape (n,)) to the mean loss of the batch, a scalar."""


class Task:
    """A classification problem that a fleet can learn. Subclass it and name it."""

    name: ClassVar[str]
    classes: ClassVar[tuple[str, ...]]
    defaults: ClassVar[Mapping[str, Any]] = {}
    """Settings of a run that suit this task, by key; whoever starts a run may change them."""
    workers: ClassVar[int] = 0
    """Processes that load and collate batches; 0: the worker itself."""

    def model(self) -> nn.Module:
        """A new model; its output has the shape (n, classes)."""
        raise NotImplementedError

    def train_data(self, path: Path | None) -> Examples:
        """What an agent trains on: its file or folder, None for what ships with the task.

        Raises DataError.
        """
        raise NotImplementedError

    def held_out(self, path: Path | None) -> Examples | None:  # noqa: ARG002
        """What an agent evaluates on, never trained on; None when it has nothing of the kind."""
        return None

    def test_parts(self, path: Path | None) -> dict[str, Examples]:
        """What the coordinator evaluates on, by name; the first part is the one that counts."""
        held_out = self.held_out(path)
        return {} if held_out is None else {"test": held_out}

    def inputs(self, x: Tensor, *, training: bool) -> Tensor:  # noqa: ARG002
        """The model's input from a batch of stored examples, on the device that holds `x`.

        Here is the place to scale, and when `training` to augment: with torch's own
        generator, which is seeded for each agent and round.
        """
        return x.to(torch.float32)

    def collate(self, examples: Sequence[Batch]) -> Batch:
        """One batch of a list of examples. Unless this is overridden, a batch is taken from
        memory at once. To read inputs from disk only when they are needed, let the `x` of
        `Examples` hold row numbers or the like and look them up here.
        """
        return torch.stack([x for x, _ in examples]), torch.stack([y for _, y in examples])

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean over the batch, a scalar."""
        return functional.cross_entropy(output, target)

    def training_loss(self, examples: Examples) -> Loss:  # noqa: ARG002
        """The loss to train with; it may depend on what this agent owns."""
        return self.loss

    def probabilities(self, output: Tensor) -> Tensor:
        """Of each class, shape (n, classes); right for logits and for their log-softmax."""
        return functional.softmax(output, dim=1)


def load_task(ref: str) -> Task:
    """The task of that name, or of the form module:Class.

    Raises UnknownTask, or TaskError when its module cannot be imported.
    """
    module_name, class_name = locate(ref)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and module_name.startswith(error.name):
            raise UnknownTask(f"task '{ref}': there is no module '{module_name}'") from error
        raise TaskError(f"task '{ref}' needs the package '{error.name}'") from error
    except Exception as error:
        raise TaskError(f"task '{ref}' cannot be imported: {_one_line(error)}") from error
    found = getattr(module, class_name, None)
    if found is None:
        raise UnknownTask(f"task '{ref}': {module_name} has no class '{class_name}'")
    if not isinstance(found, type) or not issubclass(found, Task):
        raise TaskError(f"task '{ref}': {class_name} is not a subclass of flctl's Task")
    for attribute in ("name", "classes"):
        if not getattr(found, attribute, None):
            raise TaskError(f"task '{ref}': {class_name} does not say its '{attribute}'")
    return found()


def initial_model(task: Task, seed: int) -> nn.Module:
    """The model that a run of this seed begins with."""
    torch.manual_seed(derive(seed, "model"))
    try:
        return task.model()
    except Exception as error:
        raise TaskError(f"task '{task.name}' cannot build its model: {_one_line(error)}") from error


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
