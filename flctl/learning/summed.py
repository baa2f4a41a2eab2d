"""Metrics of torchmetrics whose states add up: agents send the states, and the figure is computed
of their sum."""

import contextlib
import importlib.util
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from flctl.core.metrics import DEFINED, LOSS
from flctl.errors import FlctlError, TaskError
from flctl.learning.guard import blame
from flctl.learning.task import Task
from flctl.learning.vision import import_torchvision
from flctl.wire.messages import MOST_STATES, Sums


class SummedMetrics:
    """Those of a task, by name. Raises TaskError for one whose states do not add up."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._metrics: dict[str, Any] = {}
        if type(task).torchmetrics is Task.torchmetrics:
            return
        if importlib.util.find_spec("torchvision") is not None:
            with contextlib.suppress(FlctlError):  # torchmetrics imports it where it is
                import_torchvision()
        try:
            self._metrics = dict(task.torchmetrics())
        except ModuleNotFoundError as error:
            what = f"task '{task.name}' needs {error.name}"
            hint = ": pip install 'flctl[torchmetrics]'" if error.name == "torchmetrics" else ""
            raise TaskError(what + hint) from error
        except (Exception, SystemExit) as error:
            blame(task, "torchmetrics", error)
        shown = {metric.name for metric in task.metrics}
        if strange := sorted(self._metrics.keys() - shown):
            raise TaskError(
                f"task '{task.name}', torchmetrics: '{strange[0]}' is not among its 'metrics'"
            )
        for name, metric in self._metrics.items():
            if wrong := _wrong(name, metric):
                raise TaskError(f"task '{task.name}', torchmetrics: '{name}' {wrong}")
            metric.set_dtype(torch.float64)
            metric.reset()

    @property
    def sizes(self) -> dict[str, int]:
        """How many numbers the states of each have."""
        return {
            name: sum(start.numel() for start in _starts(metric).values())
            for name, metric in self._metrics.items()
        }

    def add(self, output: Tensor, target: Tensor) -> None:
        """Count a batch. Raises TaskError."""
        if not self._metrics:
            return
        said, target = self._task.predicted(output).cpu(), target.cpu()
        with _counting():
            for name, metric in self._metrics.items():
                try:
                    metric.update(said, target)
                except Exception as error:
                    blame(self._task, f"torchmetrics, {name}.update", error)

    def states(self) -> dict[str, tuple[float, ...]]:
        """The sums so far, each metric's states in the order of their names."""
        found: dict[str, tuple[float, ...]] = {}
        for name, metric in self._metrics.items():
            numbers: list[float] = []
            for state, start in _starts(metric).items():
                value = getattr(metric, state)
                if value.shape != start.shape:
                    raise TaskError(
                        f"task '{self._task.name}', torchmetrics: '{name}' begins with a "
                        f"'{state}' of shape {list(start.shape)}, and has {list(value.shape)} now"
                    )
                numbers += value.double().flatten().tolist()
            found[name] = tuple(numbers)
        return found

    def values(self, sums: Sums) -> dict[str, float]:
        """The figures of such sums. Raises TaskError."""
        found: dict[str, float] = {}
        for name, metric in self._metrics.items():
            metric.reset()
            numbers = torch.tensor(sums.states[name], dtype=torch.float64)
            for state, start in _starts(metric).items():
                own, numbers = numbers[: start.numel()], numbers[start.numel() :]
                setattr(metric, state, own.reshape(start.shape).to(getattr(metric, state).dtype))
            metric._update_count = 1  # or it warns that nothing was counted
            try:
                value = metric.compute()
            except Exception as error:
                blame(self._task, f"torchmetrics, {name}.compute", error)
            if not isinstance(value, Tensor) or value.numel() != 1:
                raise TaskError(
                    f"task '{self._task.name}', torchmetrics: '{name}' gives no single number; "
                    "choose an average"
                )
            found[name] = float(value)
            metric.reset()
        return found


@contextlib.contextmanager
def _counting() -> Iterator[None]:
    """torchmetrics counts by comparing all with all where torch is to be deterministic: gigabytes
    for a batch. On the CPU torch's own count is so anyway."""
    before = torch.are_deterministic_algorithms_enabled()
    only_warns = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=only_warns)


def _starts(metric: Any) -> dict[str, Tensor]:
    return {state: metric._defaults[state] for state in sorted(metric._defaults)}


def _wrong(name: str, metric: Any) -> str:
    """Problem with a metric; an empty string if there is none."""
    states: Mapping[str, Any] | None = getattr(metric, "_defaults", None)
    if states is None or not hasattr(metric, "_reductions"):
        return f"is {type(metric).__name__}, no metric of torchmetrics"
    if name in DEFINED or name == LOSS.name:
        return "has the name of a metric of flctl's"
    kept = [state for state, start in states.items() if isinstance(start, list)]
    if kept:
        return (
            f"keeps the raw predictions ('{kept[0]}' is a list, of kind cat), which do not leave "
            "an agent: choose one whose states add up, with thresholds for example"
        )
    odd = [
        state
        for state, start in states.items()
        if getattr(metric._reductions[state], "__name__", "") != "dim_zero_sum" or start.any()
    ]
    if odd or not states:
        return f"has states that do not add up ({', '.join(odd) or 'it has none of its own'})"
    if (numbers := sum(start.numel() for start in states.values())) > MOST_STATES:
        return f"has {numbers} numbers in its states, {MOST_STATES} at most"
    return ""
