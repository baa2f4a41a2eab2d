"""The strategy that a run's settings name, found by entry point; with its arguments."""

import difflib
import importlib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import EntryPoint, entry_points

import msgspec

from flctl.core.strategies.strategy import Strategy
from flctl.errors import SettingsError, one_line
from flctl.explaining import explained_key
from flctl.settings import RunSettings

GROUP = "flctl.strategies"


@cache
def installed_strategies() -> Mapping[str, Sequence[EntryPoint]]:
    """By name, in order of the names; one that two packages register is there twice."""
    found: dict[str, list[EntryPoint]] = {}
    for entry in sorted(entry_points(group=GROUP)):
        found.setdefault(entry.name, []).append(entry)
    return found


def strategy_of(settings: RunSettings) -> Strategy:
    """Raises SettingsError for an unknown or an incomplete strategy, or an argument that it does
    not take."""
    name, kind = settings.strategy, strategy_class(settings.strategy)
    try:
        strategy = msgspec.convert(dict(settings.strategy_args), kind, strict=True)
    except msgspec.ValidationError as error:
        takes = ", ".join(kind.__struct_fields__) or "none"
        why = f"{explained_key(error, kind, {})}; it takes {takes}"
        raise SettingsError(f"strategy_args of {name}: {why}") from error
    if strategy.initial and not strategy.steps:
        raise SettingsError(f"strategy '{name}' has initial, but not steps = True: set it")
    return strategy


def strategy_class(name: str) -> type[Strategy]:
    """Raises SettingsError unless `name` is installed, by one package, and is a strategy."""
    installed = installed_strategies()
    if len(installed.get(name, ())) != 1:  # packages may have changed since this process began
        importlib.invalidate_caches()
        installed_strategies.cache_clear()
        installed = installed_strategies()
    if name not in installed:
        near = difflib.get_close_matches(name, installed, n=1, cutoff=0.5)
        hint = f"; did you mean '{near[0]}'?" if near else f"; installed: {', '.join(installed)}"
        raise SettingsError(f"unknown strategy '{name}'{hint}")
    entry, *others = installed[name]
    if any(other.value != entry.value for other in others):
        packages = " and ".join(sorted(e.dist.name if e.dist else "?" for e in installed[name]))
        raise SettingsError(
            f"strategy '{name}' is brought along by {packages}: uninstall one of them"
        )
    try:
        kind = entry.load()
    except (Exception, SystemExit) as error:  # code of another package
        raise SettingsError(f"strategy '{name}' cannot be imported: {one_line(error)}") from error
    if not (isinstance(kind, type) and issubclass(kind, Strategy)):
        raise SettingsError(f"strategy '{name}': {entry.value} is not a Strategy")
    if kind.step is not Strategy.step and not kind.steps:
        raise SettingsError(f"strategy '{name}' has step, but not steps = True: set it")
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
