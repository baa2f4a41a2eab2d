"""Whether the sums that an agent sends are possible."""

from flctl.core.metrics import (
    CERTAIN,
    CONFIDENCE,
    CONSTANTS,
    ERRORS,
    LABELS,
    SCORES,
    SQUARED,
    averaged,
    by_class,
    tables,
)
from flctl.wire.messages import Measures, Sums, Table

LARGEST_MEAN = 1e300
"""Largest mean of an agent, and largest root of its squares: sums over a fleet stay finite."""
MOST_EXAMPLES = 2**31
"""Of one agent: sums over a fleet stay below what a message holds."""


def verified(claimed: Sums, measures: Measures, most: int) -> Sums:
    """`claimed` from the network, if it is what the run's metrics need and is consistent.

    Raises ValueError when it does not, or counts more than `most` examples.
    """
    n, shapes = claimed.examples, tables(measures)
    if not 1 <= n <= min(most, MOST_EXAMPLES):
        raise ValueError(f"{n} examples, {most} were declared")
    if (
        claimed.means.keys() - CONSTANTS.keys() != averaged(measures)
        or claimed.counts.keys() != shapes.keys()
    ):
        raise ValueError("its sums are not those that the metrics of the run need")
    for name, of in claimed.means.items():
        if of.count != n:
            raise ValueError(f"the {name} is of {of.count} examples, not {n}")
        if not (abs(of.mean) <= LARGEST_MEAN and 0 <= of.m2 <= LARGEST_MEAN):
            raise ValueError(f"the {name} is not a finite number below {LARGEST_MEAN:g}")
        if name in ("mae", SQUARED, *CONSTANTS) and of.mean < 0:
            raise ValueError(f"the {name} is negative")
    if {name: len(state) for name, state in claimed.states.items()} != measures.states:
        raise ValueError("its states are not those of the run's metrics")
    if not all(abs(each) <= LARGEST_MEAN for state in claimed.states.values() for each in state):
        raise ValueError(f"a state holds what is not a finite number below {LARGEST_MEAN:g}")
    for name, (rows, columns) in shapes.items():
        table = claimed.counts[name]
        if len(table) != rows or any(len(row) != columns for row in table):
            raise ValueError(f"the table '{name}' is not of {rows} x {columns} numbers")
        if not _adds_up(name, table, n):
            raise ValueError(f"the table '{name}' does not add up to {n} examples")
    return claimed


def _adds_up(name: str, table: Table, n: int) -> bool:
    if name == ERRORS:
        return sum(map(sum, table)) == n
    if name == CONFIDENCE:
        widths = [CERTAIN * there for there, _, _ in table]
        ends = enumerate(zip(table, widths, strict=True))
        in_bin = all(at * by <= row[2] * len(table) <= (at + 1) * by for at, (row, by) in ends)
        return in_bin and all(hits <= own for own, hits, _ in table) and sum(widths) == n * CERTAIN
    if name == LABELS:
        return all(hit <= min(true, said) and true + said - hit <= n for hit, true, said in table)
    if name == SCORES:
        pairs = [(sum(own), sum(rest)) for own, rest in zip(table[::2], table[1::2], strict=True)]
        return sum(own for own, _ in pairs) == n and all(own + rest == n for own, rest in pairs)
    _, targets, said = zip(*by_class(table), strict=True)
    fits = all(hit <= min(both) for hit, *both in by_class(table))
    return fits and sum(targets) == sum(said) == n
