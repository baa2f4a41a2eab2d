"""Any optimiser of `torch.optim`, by its name and arguments."""

import difflib
import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from flctl.errors import SettingsError, one_line
from flctl.settings import LocalTraining


def make_optimizer(
    training: LocalTraining, parameters: Iterable[nn.Parameter]
) -> torch.optim.Optimizer:
    """Raises SettingsError that names the optimiser or argument and the nearest known one."""
    kind = _find(training.optimizer)
    arguments = _arguments(kind, training)
    try:
        optimizer: torch.optim.Optimizer = kind(list(parameters), **arguments)
    except Exception as error:  # whatever torch makes of the arguments
        raise SettingsError(f"optimizer {training.optimizer}: {one_line(error)}") from error
    return optimizer


def check_optimizer(training: LocalTraining, model: nn.Module) -> None:
    """That it takes the model's parameters and can make a step. Raises SettingsError."""
    make_optimizer(training, model.parameters())
    weight = nn.Parameter(torch.ones(2, 2))
    weight.grad = torch.ones(2, 2)
    optimizer = make_optimizer(training, [weight])
    try:
        optimizer.step(lambda: 1.0)
    except Exception as error:
        raise SettingsError(f"optimizer {training.optimizer}: {one_line(error)}") from error


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
    parameters = inspect.signature(kind).parameters
    accepted = [name for name in parameters if name not in ("params", "lr")]
    for name, value in training.optimizer_args.items():
        if name == "lr":
            raise SettingsError("optimizer_args: the learning rate is the setting 'lr'")
        if name not in accepted:
            near = difflib.get_close_matches(name, accepted, n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'?" if near else f"it takes {', '.join(accepted)}"
            raise SettingsError(
                f"optimizer_args: {training.optimizer} has no argument '{name}'; {hint}"
            )
        wanted = _wanted(parameters[name].default, value)
        if wanted is not None:
            raise SettingsError(f"optimizer_args: {name} of {training.optimizer} is {wanted}")
    given = training.optimizer_args.items()
    return {
        "lr": training.lr,
        **{name: tuple(v) if isinstance(v, list) else v for name, v in given},
    }


def _wanted(default: object, value: object) -> str | None:
    """What an argument with this default takes, in words; None when `value` is of that kind."""
    match default:
        case bool():
            return None if isinstance(value, bool) else "true or false"
        case int() | float():
            fits = isinstance(value, int | float) and not isinstance(value, bool)
            return None if fits else f"a number, such as {default}"
        case tuple():
            fits = isinstance(value, list) and len(value) == len(default)
            return None if fits else f"a list of {len(default)} numbers, such as {list(default)}"
    return None
