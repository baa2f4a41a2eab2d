"""The strategy that a run's settings name, found by entry point; with its arguments."""

import difflib
import importlib
from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points

import msgspec

from flctl.core.strategies.strategy import Strategy
from flctl.errors import SettingsError, one_line
from flctl.settings import RunSettings

GROUP = "flctl.strategies"


@cache
def installed_strategies() -> Mapping[str, EntryPoint]:
    """By name, in order of the names."""
    return {entry.name: entry for entry in sorted(entry_points(group=GROUP))}


def strategy_of(settings: RunSettings) -> Strategy:
    """Raises SettingsError for an unknown strategy, or an argument that it does not take."""
    name, kind = settings.strategy, strategy_class(settings.strategy)
    try:
        return msgspec.convert(dict(settings.strategy_args), kind, strict=True)
    except msgspec.ValidationError as error:
        raise SettingsError(
            f"strategy_args of {name}: {_wrong(error)}; it takes "
            f"{', '.join(kind.__struct_fields__) or 'none'}"
        ) from error


def strategy_class(name: str) -> type[Strategy]:
    """Raises SettingsError unless `name` is installed, by one package, and is a strategy."""
    installed = installed_strategies()
    if name not in installed:  # its package may be newer than this process
        importlib.invalidate_caches()
        installed_strategies.cache_clear()
        installed = installed_strategies()
    if name not in installed:
        near = difflib.get_close_matches(name, installed, n=1, cutoff=0.5)
        hint = f"; did you mean '{near[0]}'?" if near else f"; installed: {', '.join(installed)}"
        raise SettingsError(f"unknown strategy '{name}'{hint}")
    try:
        kind = installed[name].load()
    except (Exception, SystemExit) as error:  # code of another package
        raise SettingsError(f"strategy '{name}' cannot be imported: {one_line(error)}") from error
    if not (isinstance(kind, type) and issubclass(kind, Strategy)):
        raise SettingsError(f"strategy '{name}': {installed[name].value} is not a Strategy")
    return kind


def check_fits(strategy: Strategy, settings: RunSettings) -> None:
    """Check that a new run can use the strategy. Raises SettingsError."""
    if settings.compression == "topk" and strategy.ranks:
        # Where less than half of the agents send a number, the middle of all is "no change".
        raise SettingsError(
            f"compression topk does not go with strategy {settings.strategy}, which drops what "
            "few agents send; choose compression int8, or strategy multi-krum"
        )
    agents = settings.local or settings.virtual or len(settings.agents)
    invited = settings.invited_of(agents)
    if agents and invited < strategy.fewest:
        given = "".join(f" {key}={value}" for key, value in settings.strategy_args.items())
        raise SettingsError(
            f"{settings.strategy}{given} needs {strategy.fewest} agents in a round, but "
            f"{invited} would be invited; choose more agents, or the median"
        )


def _wrong(error: msgspec.ValidationError) -> str:
    """msgspec's "Expected `float` < 0.5 - at `$.trim`" as "trim: expected `float` < 0.5"."""
    text = one_line(error).replace("Object contains unknown field", "there is no")
    text, _, name = text.partition(" - at `$.")
    return f"{name.rstrip('`')}: {text[0].lower()}{text[1:]}" if name else text
