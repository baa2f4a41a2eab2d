"""Figures of each agent, and how they are spread: as a table, and as JSON."""

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

from rich.text import Text

from flctl.core.metrics import computed, labels
from flctl.core.spread import Rows, spread, worst_first
from flctl.formats import counted, few, figure
from flctl.terminal import output

if TYPE_CHECKING:
    from flctl.wire.messages import Measures, Metrics, Says

Groups: TypeAlias = Mapping[str, Collection[str]]
"""By agent: the records, patients or the like that it has."""
SHOWN = 10
"""Agents in a table, unless all are asked for."""
EXAMPLES = "examples"
CONSTANTS: "dict[Says, str]" = {
    "class": "the largest class", "labels": "every label",
    "number": "the mean; for MAE the best of 17 around the task's 'center'",
    "score": "one score",
}  # fmt: skip
SUMMARY = {"mean": "mean", "median": "median", "tenth": "10th percentile", "worst": "worst"}


def show_agents(
    title: str,
    rows: Rows,
    heads: Mapping[str, str],
    *,
    by: str,
    lower: Collection[str] = (),
    constants: Rows | None = None,
    everyone: bool = False,
    groups: Groups = MappingProxyType({}),
) -> None:
    """`rows` are figures by agent, `heads` their headings. Of more than `SHOWN` agents the worst
    `by` one of the figures, unless `everyone` is wanted; then the mean, the median and the worst of
    all. `constants` stand in brackets; `groups` are the names of the groups that each has."""
    beside = constants or {}
    made = output.table(
        title, *(f">{head}" for head in heads.values()), *["records"] * bool(groups),
        yields=("records",),
    )  # fmt: skip
    order = sorted(rows) if len(rows) <= SHOWN or everyone else worst_first(rows, by, lower)[:SHOWN]
    for agent in order:
        mine = beside.get(agent, {})
        cells = [with_constant(n, rows[agent].get(n), mine.get(n)) for n in heads]
        made.add_row(agent, *cells, *[some_of(groups.get(agent, ()))] * bool(groups))
    of, usual = spread(rows, lower), spread(beside)
    for field, words in SUMMARY.items() if len(rows) > 1 else ():
        cells = []
        for name in heads:
            typical = field in ("mean", "median")
            value = getattr(of[name], field) if name in of else None
            constant = getattr(usual[name], field) if name in usual and typical else None
            shown = typical or name != EXAMPLES
            cells.append(with_constant(name, value, constant) if shown else "")
        made.add_row(Text(words, style="bold"), *cells, *[""] * bool(groups))
    output.show(made)
    if left := len(rows) - len(order):
        output.print_line(f"and {counted(left, 'agent')} with better figures; --all shows all")


def some_of(groups: Collection[str]) -> str:
    """How many, and the first names."""
    return f"{len(groups)}: {few(groups, 3)}" if groups else "-"


def in_brackets(says: "Says") -> str:
    return f"in brackets: a constant answer ({CONSTANTS[says]} of the same data)"


def with_constant(name: str, value: float | None, constant: float | None) -> str:
    """A figure, and in brackets that of a constant answer."""
    if name == EXAMPLES:
        return "-" if value is None else f"{value:.0f}"
    text = figure(value)
    return text if constant is None else f"{text} ({figure(constant)})"


def show_measured(
    title: str,
    found: "Mapping[str, Metrics]",
    measures: "Measures",
    everyone: bool = False,
    groups: Groups = MappingProxyType({}),
) -> None:
    """What each agent has measured on its own data."""
    show_agents(
        title,
        rows_of(found),
        {EXAMPLES: EXAMPLES, **labels(found.values())},
        by=measures.primary,
        lower=lower_of(measures),
        constants={agent: each.constant for agent, each in found.items()},
        everyone=everyone,
        groups=groups,
    )


def show_parts(title: str, found: "Mapping[str, Metrics]", says: "Says") -> None:
    """The figures of each part of the data, and what the brackets are about."""
    names = labels(found.values())
    made = output.table(title, f">{EXAMPLES}", *(f">{text}" for text in names.values()))
    for part, each in found.items():
        cells = (with_constant(n, each.values.get(n), each.constant.get(n)) for n in names)
        made.add_row(part, str(each.examples), *cells)
    output.show(made)
    if any(each.constant for each in found.values()):
        output.print_line(in_brackets(says))


def document(
    found: "Mapping[str, Metrics]", measures: "Measures", groups: Groups = MappingProxyType({})
) -> dict[str, Any]:
    """The same for JSON: all agents, and how each figure is spread."""
    about = {"agents": found, "spread": spread(rows_of(found), lower_of(measures))}
    return about | ({"records": groups} if groups else {})


def rows_of(found: "Mapping[str, Metrics]") -> dict[str, dict[str, float]]:
    return {
        agent: {EXAMPLES: float(each.examples), **computed(each.values)}
        for agent, each in found.items()
    }


def lower_of(measures: "Measures") -> set[str]:
    """Metrics of which less is better."""
    return {metric.name for metric in measures.metrics if metric.lower}
