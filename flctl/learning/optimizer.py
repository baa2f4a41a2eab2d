"""Any optimiser of `torch.optim`, by its name and arguments."""

import difflib
import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from flctl.errors import SettingsError
from flctl.settings import LocalTraining


def make_optimizer(
    training: LocalTraining, parameters: Iterable[nn.Parameter]
) -> torch.optim.Optimizer:
    """Raises SettingsError that names the optimiser or argument and the nearest known one."""
    kind = _find(training.optimizer)
    arguments = _arguments(kind, training)
    try:
        optimizer: torch.optim.Optimizer = kind(list(parameters), **arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        raise SettingsError(f"optimizer {training.optimizer}: {error}") from error
    return optimizer


def _find(name: str) -> Any:
    known = {
        key: value
        for key, value in vars(torch.optim).items()
        if isinstance(value, type)
        and issubclass(value, torch.optim.Optimizer)
        and value is not torch.optim.Optimizer
    }
    if name in known:
        return known[name]
    folded = {key.lower(): key for key in known}
    near = difflib.get_close_matches(name.lower(), folded, n=1, cutoff=0.5)
    hint = f"; did you mean '{folded[near[0]]}'?" if near else f"; there are {', '.join(known)}"
    raise SettingsError(f"optimizer: torch.optim has no '{name}'{hint}")


def _arguments(kind: Any, training: LocalTraining) -> dict[str, Any]:
    accepted = [name for name in inspect.signature(kind).parameters if name not in ("params", "lr")]
    for name in training.optimizer_args:
        if name == "lr":
            raise SettingsError("optimizer_args: the learning rate is the setting 'lr'")
        if name not in accepted:
            near = difflib.get_close_matches(name, accepted, n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'?" if near else f"it takes {', '.join(accepted)}"
            raise SettingsError(
                f"optimizer_args: {training.optimizer} has no argument '{name}'; {hint}"
            )
    given = training.optimizer_args.items()
    return {
        "lr": training.lr,
        **{name: tuple(v) if isinstance(v, list) else v for name, v in given},
    }
