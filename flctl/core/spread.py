"""How figures are spread over agents: mean, median, the worst tenth, the worst."""

import math
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import TypeAlias

from msgspec import Struct

from flctl.wire.messages import Metrics

Rows: TypeAlias = Mapping[str, Mapping[str, float]]
"""Named figures of each agent; an agent may lack some."""


class Spread(Struct, frozen=True):
    """One figure over those agents that have it."""

    agents: int
    mean: float
    """Each agent counts once."""
    median: float
    tenth: float
    """Nine of ten agents are at least as good; between two of them it is interpolated."""
    worst: float
    worst_agent: str


def spread(rows: Rows, lower: Collection[str] = ()) -> dict[str, Spread]:
    """Of every figure in `rows`, by name; of those in `lower` less is better."""
    names = dict.fromkeys(name for row in rows.values() for name in row)
    return {name: _of(rows, name, name in lower) for name in names}


def worst_first(rows: Rows, name: str, lower: Collection[str] = ()) -> list[str]:
    """The agents, by that figure; those without it are the last."""
    return sorted(rows, key=lambda agent: (*_badness(rows[agent], name, name in lower), agent))


def _of(rows: Rows, name: str, lower: bool) -> Spread:
    order = worst_first(rows, name, {name} if lower else ())
    there = [agent for agent in order if name in rows[agent]]
    values = [rows[agent][name] for agent in there]
    return Spread(
        agents=len(values),
        mean=mean_of(values),
        median=_between(values, 0.5),
        tenth=_between(values, 0.1),
        worst=values[0],
        worst_agent=there[0],
    )


def mean_of(values: Sequence[float]) -> float:
    """Each counts once. That of models that have diverged is no more than the largest number."""
    try:
        return math.fsum(value / len(values) for value in values)
    except OverflowError:
        return math.copysign(sys.float_info.max, values[0])


def _between(values: Sequence[float], share: float) -> float:
    """The value below which that share of the sorted `values` lies, interpolated."""
    at = share * (len(values) - 1)
    part, above = at - int(at), values[min(int(at) + 1, len(values) - 1)]
    return values[int(at)] * (1 - part) + above * part


def _badness(row: Mapping[str, float], name: str, lower: bool) -> tuple[bool, float]:
    value = row.get(name)
    return value is None, 0.0 if value is None else -value if lower else value


def mean(found: Sequence[Metrics]) -> Metrics:
    """Mean of the metrics of several models, each counted once."""

    def of(figures: Sequence[Mapping[str, float]]) -> dict[str, float]:
        there = [name for name in figures[0] if all(name in each for each in figures)]
        return {name: mean_of([each[name] for each in figures]) for name in there}

    return Metrics(
        examples=max(m.examples for m in found),
        values=of([m.values for m in found]),
        constant=of([m.constant for m in found]),
    )
