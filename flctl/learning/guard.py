"""Turns errors of a user's task into one line that names the task, the method and the reason.

`guarded` watches the methods of a task, `forward` its model: whatever they raise becomes a
TaskError, and what they return is looked at before anybody relies on it.
"""

import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from flctl.core.metrics import CONSTANTS, LOSS, averaged
from flctl.errors import DataError, FlctlError, TaskError, is_out_of_memory, one_line
from flctl.learning.cases import Cases
from flctl.learning.examples import Examples

if TYPE_CHECKING:
    from torch import Tensor, nn

    from flctl.learning.task import Task


def guarded(task: "Task") -> "Task":
    """`task` with its methods watched from now on."""
    for method in _WRONG:
        if hasattr(task, method):  # some are of one kind of task only
            setattr(task, method, _Watched(task, method, getattr(task, method)))
    return task


def forward(task: "Task", model: "nn.Module", x: "Tensor") -> "Tensor":
    """The model's output of a batch of inputs. Raises TaskError."""
    try:
        output = task.apply(model, x)
    except (Exception, SystemExit) as error:
        blame(task, "the model's forward", error)
    if wrong := _wrong_output(task, output, length(x) or 0):
        raise TaskError(f"task '{task.name}', the model's forward: returns {wrong}")
    found: Tensor = output
    return found


def expect_labelled(task: "Task", examples: Examples) -> None:
    """Raises DataError for examples without the targets that the task needs."""
    if task.says != "score" and not examples.labelled:
        raise DataError(f"{examples.where}: examples without targets: they can only be predicted")


def blame(task: "Task", what: str, error: BaseException) -> NoReturn:
    """Raises `error` as the task's fault in `what`, a FlctlError; the machine's as it is."""
    said = f"task '{task.name}', {what}: "
    if isinstance(error, FlctlError):
        # Of a built-in task, what is wrong is the user's file, which is named already.
        if type(error) in (DataError, TaskError) and not (_built_in(task) or _told(error)):
            raise type(error)(f"{said}{error}") from error
        raise error
    if is_out_of_memory(error) or (what == "write" and isinstance(error, OSError)):
        raise error
    raise TaskError(said + reason(error, task)) from error


def reason(error: BaseException, task: "Task | None" = None) -> str:
    """A foreign error as one short line, with the place in the task's own file if it has one."""
    text = f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")
    return one_line(text) + _place(error.__traceback__, task)


def of_loader(task: "Task", error: Exception) -> FlctlError:
    """What a loader's process has raised; torch puts its whole traceback into the text."""
    if isinstance(error, FlctlError) and not str(error).startswith("Caught "):
        return error
    last = str(error).strip().splitlines()[-1:] or [type(error).__name__]
    said = last[0].partition("flctl.errors.TaskError: ")[2]
    return TaskError(said or f"task '{task.name}', loading a batch: {one_line(last[0])}")


def kind(value: object) -> str:
    """What a value is, in words: for "returns …"."""
    from torch import Tensor

    if isinstance(value, Tensor):
        return f"a tensor of shape {list(value.shape)}"
    return "None" if value is None else f"an object of type {type(value).__name__}"


def tensors_in(batch: Any) -> "list[Tensor]":
    """Those of a batch, which is a tensor, or a dict or tuple of some."""
    from torch import Tensor

    if isinstance(batch, Tensor):
        return [batch]
    parts = batch.values() if isinstance(batch, Mapping) else batch
    nested = isinstance(batch, Mapping | list | tuple)
    return [each for part in parts for each in tensors_in(part)] if nested else []


def length(batch: Any) -> int | None:
    """How many examples are in a batch of inputs: of the first tensor in it; None without one."""
    from torch import Tensor

    if isinstance(batch, Tensor):
        return len(batch) if batch.ndim else None
    parts = batch.values() if isinstance(batch, Mapping) else batch
    return length(next(iter(parts), None)) if isinstance(parts, Iterable) else None


class _Watched:
    """A bound method. No closure, so that a loader's process can be given it."""

    def __init__(self, task: "Task", method: str, call: Callable[..., Any]) -> None:
        self._task, self._method, self._call = task, method, call

    def __call__(self, *args: Any, **named: Any) -> Any:
        task, method = self._task, self._method
        try:
            result = self._call(*args, **named)
        except (Exception, SystemExit) as error:
            blame(task, method, error)
        if wrong := _WRONG[method](task, result, *args):
            raise TaskError(f"task '{task.name}', {method}: returns {wrong}")
        if method == "training_loss" and not isinstance(result, _Watched):
            return _Watched(task, "loss", result)
        return result


def _built_in(task: "Task") -> bool:
    return type(task).__module__.partition(".")[0] == "flctl"


def _told(error: FlctlError) -> bool:
    return str(error).startswith("task '")


def _place(trace: TracebackType | None, task: "Task | None") -> str:
    """The innermost line of the file that holds the task, else of any file."""
    frames = traceback.extract_tb(trace)
    module = sys.modules.get(type(task).__module__)
    own = [frame for frame in frames if frame.filename == getattr(module, "__file__", None)]
    last = (own or frames)[-1:]
    return "".join(f" ({Path(frame.filename).name}, line {frame.lineno})" for frame in last)


# What is wrong with a result; an empty text when nothing is ------------------------------


def _wrong_output(task: "Task", result: object, n: int) -> str:
    from torch import Tensor

    if not isinstance(result, Tensor) or not result.is_floating_point():
        given = result.dtype if isinstance(result, Tensor) else kind(result)
        return f"{given}, not a tensor of floating-point numbers"
    return task.wrong_output(result, n)


def _no_model(_: "Task", result: object) -> str:
    from torch import nn

    return "" if isinstance(result, nn.Module) else f"{kind(result)}, not a torch.nn.Module"


def _no_examples(task: "Task", result: object, *_: object) -> str:
    if not isinstance(result, Examples):
        return f"{kind(result)}, not flctl's Examples"
    return task.wrong_examples(result) if result.labelled else ""


def _no_parts(task: "Task", result: object, *_: object) -> str:
    if not isinstance(result, Mapping):
        return f"{kind(result)}, not a dict of Examples by name"
    for name, part in result.items():
        if not isinstance(name, str):
            return f"a part whose name is {kind(name)}, not a text"
        if wrong := _no_examples(task, part):
            return f"as '{name}' {wrong}"
    return ""


def _no_loss(_: "Task", result: object, *__: object) -> str:
    from torch import Tensor

    if isinstance(result, Tensor) and result.numel() == 1 and result.is_floating_point():
        return ""
    return f"{kind(result)}, not a tensor with one floating-point number, the batch's mean loss"


def _no_inputs(_: "Task", result: object, *given: Any) -> str:
    n = length(result)
    if n is None:
        return f"{kind(result)}, not a tensor, or a dict or tuple of some"
    if given and n != length(given[0]):
        return f"{kind(result)} for a batch of {length(given[0])}"
    return ""


def _no_batch(task: "Task", result: Any, *given: Any) -> str:
    from torch import Tensor, int64

    fits = isinstance(result, tuple | list) and len(result) == 2
    if not fits or length(result[0]) is None or not isinstance(result[1], Tensor):
        return f"{kind(result)}, not inputs (a tensor, or a dict or tuple of some) and targets"
    x, y = result
    if given and (length(x), length(y)) != (len(given[0]), len(given[0])):
        return f"{kind(x)} and {kind(y)} for a batch of {len(given[0])}"
    if task.says == "class" and (y.dtype != int64 or y.ndim != 1):
        return f"labels of type {y.dtype} and shape {list(y.shape)}, not one torch.int64 for each"
    if task.says == "class" and len(y) and not 0 <= y.min() <= y.max() < len(task.classes):
        return f"labels from {y.min()} to {y.max()}, not in 0 to {len(task.classes) - 1}"
    if not all(bool(part.isfinite().all()) for part in (*tensors_in(x), y)):
        return "NaN or infinite numbers"
    return ""


def _no_figures(task: "Task", result: object, given: Sequence[Any]) -> str:
    from torch import Tensor

    wanted = averaged(task.measures) - {LOSS.name}
    if not isinstance(result, Mapping) or set(result) - set(CONSTANTS) != wanted:
        told = sorted(map(str, result)) if isinstance(result, Mapping) else kind(result)
        return f"{told}, not a dict with the task's own metrics: {sorted(wanted)}"
    for name, each in result.items():
        if not isinstance(each, Tensor) or (given and each.shape != (len(given[0]),)):
            return f"{kind(each)} as '{name}', not one number for each example"
    return ""


def _nothing_wrong(*_: object) -> str:
    return ""


_WRONG: dict[str, Callable[..., str]] = {
    "model": _no_model,
    "is_here": _nothing_wrong,
    "settle": _nothing_wrong,
    "train_data": _no_examples,
    "validation": lambda task, found, *_: "" if found is None else _no_examples(task, found),
    "held_out": lambda task, found, *_: "" if found is None else _no_examples(task, found),
    "test_parts": _no_parts,
    "cases": lambda task, found, *_: (
        (task.wrong_examples(found.examples) if found.labelled else "")
        if isinstance(found, Cases)
        else f"{kind(found)}, not flctl.Cases: return flctl.Cases(examples)"
    ),
    "points": _nothing_wrong,
    "write": _nothing_wrong,
    "inputs": _no_inputs,
    "collate": _no_batch,
    "loss": _no_loss,
    "training_loss": lambda _, found, *__: (
        "" if callable(found) else f"{kind(found)}, not a function of output and target"
    ),
    "figures": lambda task, found, *given: _no_figures(task, found, given),
    "predicted": lambda _, found, *given: (
        "" if not given or length(found) == len(given[0]) else f"{kind(found)}, not a row for each"
    ),
    "probabilities": lambda task, found, *given: (
        _wrong_output(task, found, len(given[0])) if given else ""
    ),
}
"""By method: its task, its result and those of its arguments that are given by place."""
