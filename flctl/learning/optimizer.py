"""Any optimiser of `torch.optim`, by its name and arguments."""

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

import torch
from torch import nn

from flctl.errors import SettingsError, one_line
from flctl.learning.groups import trained
from flctl.settings import LocalTraining


def make_optimizer(
    training: LocalTraining, parameters: Iterable[nn.Parameter]
) -> torch.optim.Optimizer:
    """Raises SettingsError that names the optimiser or argument and the nearest known one."""
    kind = _find(training.optimizer)
    arguments = _arguments(kind, training)
    _without_compiler()
    try:
        optimizer: torch.optim.Optimizer = kind(list(parameters), **arguments)
    except Exception as error:  # whatever torch makes of the arguments
        raise SettingsError(f"optimizer {training.optimizer}: {one_line(error)}") from error
    return optimizer


def take_step(optimizer: torch.optim.Optimizer, closure: Callable[[], float]) -> float:
    """`optimizer.step(closure)`, without what torch wraps around it for its compiler and profiler:
    importing the compiler takes as long, and half of the memory, as the rest of torch."""
    kind: Any = type(optimizer)
    plain = _plain_step(kind)
    if plain is None or optimizer.defaults.get("differentiable"):
        return float(optimizer.step(closure))
    with torch.no_grad():
        return float(plain(optimizer, closure))


@cache
def _plain_step(kind: Any) -> Callable[..., Any] | None:
    step: Any = kind.step
    while (inner := getattr(step, "__wrapped__", None)) is not None:
        step = inner
    return None if step is kind.step else step


@cache
def _without_compiler() -> None:
    """Adding parameters imports it too, only to keep out of its way."""
    add: Any = getattr(torch.optim.Optimizer.add_param_group, "__wrapped__", None)
    if add is not None and not hasattr(add, "__dynamo_disable"):
        setattr(add, "__dynamo_disable", add)


def check_optimizer(training: LocalTraining, model: nn.Module) -> None:
    """Check that the optimiser can make a step with the model. Raises SettingsError."""
    make_optimizer(training, trained(model))
    weight = nn.Parameter(torch.ones(2, 2))
    weight.grad = torch.ones(2, 2)
    optimizer = make_optimizer(training, [weight])
    try:
        take_step(optimizer, lambda: 1.0)
    except Exception as error:
        raise SettingsError(f"optimizer {training.optimizer}: {one_line(error)}") from error


@cache
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


@cache
def _parameters(kind: Any) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(kind).parameters


def _arguments(kind: Any, training: LocalTraining) -> dict[str, Any]:
    parameters = _parameters(kind)
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
    """Type of argument that this default implies, in words; None if `value` is of it."""
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
