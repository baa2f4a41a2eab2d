"""A checkpoint in the forms of PyTorch and ONNX."""

import contextlib
import importlib.util
import io
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from flctl.errors import TaskError, UsageError, is_out_of_memory
from flctl.files import explained, new_file
from flctl.learning.guard import forward, reason
from flctl.learning.loader import in_order
from flctl.learning.state import load_into, load_state
from flctl.learning.task import Task

BATCH = 2
"""Examples that a model is traced with; 1 would be taken for a size that is fixed."""


def save_pt(checkpoint: Path, target: Path) -> None:
    """A plain state dict, which `torch.load(…, weights_only=True)` takes. Raises FlctlError."""
    with checkpoint.open("rb") as file:
        state = load_state(file.fileno(), str(checkpoint))
    whole = io.BytesIO()  # torch's own error for a full disk does not help
    torch.save(state, whole)
    with _into(target) as out:
        out.write(whole.getbuffer())


def needs_onnx() -> None:
    """Raises UsageError when what the export needs is not installed."""
    if any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript")):
        raise UsageError("ONNX needs onnx and onnxscript: pip install 'flctl[onnx]'")


def example_input(task: Task, data: Path | None) -> Tensor:
    """Two examples as the model takes them, shape (2, …); those of `data` need no targets.

    Raises DataError, TaskError.
    """
    if shape := task.shape():
        return task.inputs(torch.zeros(BATCH, *shape), training=False)
    examples = task.cases(data).examples if data else task.held_out(None) or task.train_data(None)
    x, _ = next(in_order(task, examples, BATCH))
    if not isinstance(x, Tensor):
        raise TaskError(f"task '{task.name}': its input is not a single tensor, as ONNX requires")
    return task.inputs(x.repeat(BATCH, *[1] * (x.ndim - 1))[:BATCH], training=False)


def save_onnx(task: Task, checkpoint: Path, example: Tensor, target: Path) -> None:
    """The model alone: `input` is what the task's `inputs` makes of examples, shape (batch, …),
    `scores` its output, shape (batch, classes). The names of the classes are in its metadata.

    Raises TaskError when it cannot be expressed in ONNX, StateError.
    """
    import onnx

    model = task.model().eval()
    with checkpoint.open("rb") as file:
        load_into(model, file.fileno(), str(checkpoint))
    with torch.no_grad():
        forward(task, model, example)
    try:
        with _quiet():
            program = torch.onnx.export(
                model,
                (example,),
                input_names=["input"],
                output_names=["scores"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                dynamo=True,
                verbose=False,
            )
        assert program is not None
        proto = program.model_proto
        onnx.helper.set_model_props(
            proto, {"task": task.name, "classes": json.dumps(list(task.classes))}
        )
        onnx.checker.check_model(proto, full_check=True)
        data = proto.SerializeToString()
    except Exception as error:
        if is_out_of_memory(error):
            raise
        why = reason(error.__cause__ or error, task)
        raise TaskError(f"the model of task '{task.name}' cannot be exported to ONNX: {why}"
                        ) from error  # fmt: skip
    with _into(target) as out:
        out.write(data)


@contextlib.contextmanager
def _into(target: Path) -> Iterator[IO[bytes]]:
    with explained(target, "save the model", "--out"), new_file(target) as file:
        yield file


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter, which prints and logs for its own developers."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
