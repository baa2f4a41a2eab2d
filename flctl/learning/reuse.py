"""One module for many trainings: building it again costs more than a small client's steps."""

from collections.abc import Mapping
from enum import Enum
from types import BuiltinFunctionType, FunctionType

import torch
from torch import Tensor, nn

from flctl.learning.state import assign, specs_of
from flctl.learning.task import Task

_ALIKE = (int, float, complex, str, bytes, type(None), type, Enum, FunctionType,
          BuiltinFunctionType, torch.dtype, torch.device, torch.Size)  # fmt: skip
"""Types of values that nothing changes in place."""
_KNOWN = frozenset(vars(nn.Module()))
_HOOKS = tuple(name for name in _KNOWN if "hook" in name and not name.startswith("__"))
_Beside = list[tuple[object, ...]]


class Reused:
    """The module of a task, each time as good as new.

    Only what its state dict holds, and other buffers, may have changed when it is asked for again.
    A module of which more has changed, or that keeps what cannot be compared (a list, a hook),
    is built each time.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._model: nn.Module | None = None
        self._beside: _Beside | None = None
        self._slots: _Slots | None = None
        self._start: Mapping[str, Tensor] | None = None
        """What it began with the last time."""
        self._buffers: list[tuple[nn.Module, str, Tensor | None]] = []
        """Those that the state dict does not hold, as they were made."""

    def model(self) -> nn.Module:
        """Its parameters are those of the last time. Raises TaskError."""
        model = self._model
        if model is None or self._beside is None or _beside(model) != self._beside:
            model = self._model = self._task.model()
            self._beside, self._slots, self._start = _beside(model), None, None
            self._buffers = [
                (module, name, None if buffer is None else buffer.clone())
                for module in model.modules()
                for name, buffer in module._buffers.items()
                if name in module._non_persistent_buffers_set
            ]
        for module, name, buffer in self._buffers:
            module._buffers[name] = None if buffer is None else buffer.clone()
        for parameter in model.parameters():
            parameter.grad = None
        return model

    def begin(self, start: Mapping[str, Tensor], device: torch.device) -> nn.Module:
        """The module on `device` with the state `start`, which the caller leaves as it is. Raises
        TaskError, CheckpointError for another model's `start`."""
        model, before = self.model(), self._start
        self._start = start
        if before is None or self._slots is None:
            assign(model, start)
            model.to(device)
            self._slots = _slots(model)
        elif before is start or specs_of(before) == specs_of(start):
            with torch.no_grad():
                for name, of, key in self._slots:
                    of[key].copy_(start[name])
        else:
            assign(model, start)
        return model


_Slots = list[tuple[str, dict[str, Tensor], str]]


def _slots(model: nn.Module) -> _Slots | None:
    """Where a module keeps what its state dict holds, in that order; None where loading that is
    more than copying it."""
    found: _Slots = []
    for prefix, module in model.named_modules(remove_duplicate=False):
        own = (type(module).load_state_dict, type(module)._load_from_state_dict)
        if not all(each.__module__.startswith("torch.nn.modules.") for each in own):
            return None
        for kept in (module._parameters, module._buffers):
            for name, tensor in kept.items():
                if tensor is not None and name not in module._non_persistent_buffers_set:
                    found.append((f"{prefix}.{name}".lstrip("."), kept, name))
    return found if [name for name, _, _ in found] == list(model.state_dict()) else None


def _beside(model: nn.Module) -> _Beside | None:
    """The state of the model other than its tensors; None if it cannot be determined."""
    found: _Beside = [(name, p.requires_grad) for name, p in model.named_parameters()]
    for name, module in model.named_modules():
        own = vars(module)
        found.append((name, type(module), *module._buffers, *module._parameters))
        if any(own.get(hooks) for hooks in _HOOKS):
            return None
        of_torch = type(module).__module__.startswith("torch.nn.modules.")
        for key, value in own.items():
            if key in _KNOWN:
                continue
            parts = value if isinstance(value, tuple) else (value,)
            if all(isinstance(part, _ALIKE) for part in parts):
                found.append((key, value))
            elif not of_torch:  # whose lists are as they were made
                return None
    return found
