"""Which strategy a run's settings name, with which arguments."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta, Struct

from flctl.core.strategies import krum, robust
from flctl.core.strategies.fedavg import Floats, Weights, mean
from flctl.core.strategies.fedopt import FedAdagrad, FedAdam, FedAvgM, FedYogi, ServerOptimizer
from flctl.errors import SettingsError, one_line
from flctl.settings import RunSettings
from flctl.wire.parameters import Array

Rule: TypeAlias = Callable[[Iterator[Array], Weights], Floats]
"""One slice of each update, and the weights, to one slice of the model."""


class Selection(Struct, frozen=True):
    """Krum's choice of the updates that count; `keep` None: all that can be trusted."""

    byzantine: int
    keep: int | None


class Strategy(Struct, frozen=True):
    """What becomes of a round's updates: select, clip, combine, then a server step."""

    rule: Rule = mean
    streams: bool = True
    """Whether the rule needs one update's slice at a time, not all of them."""
    selection: Selection | None = None
    clip_norm: float | None = None
    server: ServerOptimizer | None = None

    @property
    def weighs(self) -> bool:
        """Whether updates count by their weights."""
        return self.rule is mean and self.selection is None

    @property
    def defends(self) -> bool:
        """Whether it is to hold against hostile updates."""
        return not self.streams or self.selection is not None or self.clip_norm is not None


class _TrimmedMean(Struct, forbid_unknown_fields=True):
    trim: Annotated[float, Meta(ge=0, lt=0.5)] = 0.2


class _Krum(Struct, forbid_unknown_fields=True):
    byzantine: Annotated[int, Meta(ge=0)] = 1


class _MultiKrum(_Krum, forbid_unknown_fields=True):
    keep: Annotated[int, Meta(ge=1)] | None = None


class _None(Struct, forbid_unknown_fields=True):
    pass


_ARGUMENTS: dict[str, type[Struct]] = {
    "trimmed-mean": _TrimmedMean,
    "krum": _Krum,
    "multi-krum": _MultiKrum,
    "fedavgm": FedAvgM,
    "fedadagrad": FedAdagrad,
    "fedadam": FedAdam,
    "fedyogi": FedYogi,
}


def strategy_of(settings: RunSettings) -> Strategy:
    """Raises SettingsError for an argument that the strategy does not take."""
    given = arguments_of(settings.strategy, settings.strategy_args)
    clip = settings.clip_norm
    match given:
        case FedAvgM() | FedAdagrad() | FedAdam() | FedYogi():
            return Strategy(clip_norm=clip, server=given)
        case _TrimmedMean(trim):
            trimmed = partial(robust.trimmed_mean, trim=trim)
            return Strategy(rule=trimmed, streams=False, clip_norm=clip)
        case _MultiKrum(byzantine, keep):
            _expect_agents(settings, byzantine)
            return Strategy(selection=Selection(byzantine, keep), clip_norm=clip)
        case _Krum(byzantine):
            _expect_agents(settings, byzantine)
            return Strategy(selection=Selection(byzantine, keep=1), clip_norm=clip)
        case _ if settings.strategy == "median":
            return Strategy(rule=robust.median, streams=False, clip_norm=clip)
        case _:
            return Strategy(clip_norm=clip)


def _expect_agents(settings: RunSettings, byzantine: int) -> None:
    """That a round can have enough updates for Krum, as far as that is known before it."""
    agents = settings.local or settings.virtual or len(settings.agents)
    invited, need = settings.invited_of(agents), krum.needed(byzantine)
    if agents and invited < need:
        raise SettingsError(
            f"{settings.strategy} with byzantine={byzantine} needs {need} agents in a round, "
            f"{invited} would be invited; choose more agents, or the median"
        )


def arguments_of(strategy: str, given: Mapping[str, object]) -> Struct:
    """`given`, checked and completed with the strategy's defaults. Raises SettingsError."""
    kind = _ARGUMENTS.get(strategy, _None)
    try:
        return msgspec.convert(dict(given), kind, strict=True)
    except msgspec.ValidationError as error:
        raise SettingsError(
            f"strategy_args of {strategy}: {_wrong(error)}; it takes "
            f"{', '.join(kind.__struct_fields__) or 'none'}"
        ) from error


def _wrong(error: msgspec.ValidationError) -> str:
    """msgspec's "Expected `float` < 0.5 - at `$.trim`" as "trim: expected `float` < 0.5"."""
    text = one_line(error).replace("Object contains unknown field", "there is no")
    text, _, name = text.partition(" - at `$.")
    return f"{name.rstrip('`')}: {text[0].lower()}{text[1:]}" if name else text
