"""Metrics: how each is computed from sums, and how the sums of several agents become one.

A new metric is one entry in `DEFINED`, or a name that a task's `figures` gives for each example.
Up to `CONFUSION` classes the table "classes" is a confusion matrix, [target][prediction]; of
more it has hits, targets and predictions of each class, so that what travels grows with the
classes and not with their square. The table "scores" has two histograms for each class: of the
probabilities that its examples get for it, and of those that all others get. "confidence" has, by
the probability of the predicted class, examples, hits, and the sum of those probabilities in units
of 1 / `CERTAIN`. "labels" has hits, examples and predictions of each label. "errors" has two
histograms, of how unusual a model finds what is normal (or unlabelled) and what is not:
`ERROR_BINS` bins of equal ratio, in rows of `ERROR_ROW`. Numbers have no table: their errors and
their spread are moments.
"""

import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate, chain
from typing import NamedTuple, TypeAlias

from flctl.formats import figure
from flctl.wire.messages import Measures, Metric, Metrics, Moments, Sums, Table

CONFUSION = 100
"""Classes up to which a confusion matrix is kept: with four bytes a cell it fills a message."""
BINS = 64
MOST_SCORED = 50
"""Classes up to which histograms of probabilities fit into a message."""
ERROR_BINS, ERROR_ROW = 1024, 128
PER_OCTAVE, FIRST_EXPONENT = 16, -32
"""Bins of errors to each doubling, and the power of two that the first one begins at."""
CONFIDENCE_BINS, CERTAIN = 15, 10_000
"""Bins of equal width for calibration, and what a probability of 1 counts as in their sums."""
CLASSES, SCORES, LABELS, ERRORS = "classes", "scores", "labels", "errors"
CONFIDENCE = "confidence"
SQUARED, TARGET = "squared_error", "target"
"""Means that no metric shows, but some are computed from."""
CONSTANTS = {f"constant_{at:02d}": (at - 8) / 4 for at in range(17)}
"""Means of the errors of constant answers, by how far these are from a task's `center`, in units of
its `scale`: the best of them is reported with MAE. Only a `Regression` has them."""
FITS = 0.5
"""A label fits from this probability on."""
NORMAL_SHARE = 0.99
"""Fraction of normal examples that fall below the threshold."""
LOSS = Metric("loss", lower=True)
DEFAULT_METRICS = (LOSS, Metric("accuracy"), Metric("macro_f1"))
SPREAD = "_sd"
"""A metric of this ending is the standard deviation of the one that it names before."""


Derive: TypeAlias = Callable[[Sums], Mapping[str, float]]
"""Figures of torchmetrics' states, which takes torch."""


class Defined(NamedTuple):
    label: str
    value: Callable[[Sums], float]
    tables: tuple[str, ...] = ()
    """Tables that it can be computed from: the one that the kind of task has."""
    means: tuple[str, ...] = ()
    """Means that it is computed from, all of them."""
    constant: Callable[[Sums], float] = lambda _: math.nan
    """The figure of the best constant answer: the largest class, every label, the mean number."""
    takes: str = ""
    """What it cannot be computed without, in words."""


def _accuracy(sums: Sums) -> float:
    hits, targets, _ = zip(*by_class(sums.counts[CLASSES]), strict=True)
    return float(sum(hits) / max(1, sum(targets)))


def _largest(sums: Sums) -> float:
    """Share of the largest class."""
    targets = [true for _, true, _ in by_class(sums.counts[CLASSES])]
    return float(max(targets) / max(1, sum(targets)))


def _ece(sums: Sums) -> float:
    """Expected calibration error: how far the probabilities of the predicted classes are from the
    share of hits, mean over bins of equal width, weighted by examples (Naeini et al. 2015; Guo et
    al. 2017, with 15 bins)."""
    table = sums.counts[CONFIDENCE]
    away = sum(abs(hits * CERTAIN - confidence) for _, hits, confidence in table)
    return away / (CERTAIN * max(1, sums.examples))


def _macro_f1(sums: Sums) -> float:
    """Mean of 2TP / (2TP + FP + FN) over the classes that occur as target or as prediction."""
    table = sums.counts.get(LABELS) or by_class(sums.counts[CLASSES])
    scores = [2 * hits / (true + said) for hits, true, said in table if true + said]
    return math.fsum(scores) / max(1, len(scores))


def _constant_f1(sums: Sums) -> float:
    """The largest class gets 2n / (n + N) and the others 0; every label, always, 2n / (n + N)."""
    by_label = sums.counts.get(LABELS)
    table = by_label or by_class(sums.counts[CLASSES])
    there = sorted(true for _, true, _ in table if true)
    scores = [2 * n / (n + sums.examples) for n in (there if by_label else there[-1:])]
    return math.fsum(scores) / max(1, len(there))


def _auroc(sums: Sums) -> float:
    """One class against the rest, mean over those that have both; equal bins count half."""
    areas = []
    pairs_of_bins: Iterable[tuple[Iterable[int], Iterable[int]]]
    if ERRORS in sums.counts:
        usual, odd = errors_of(sums.counts)
        pairs_of_bins = [(odd, usual)]
    else:
        table = sums.counts[SCORES]
        pairs_of_bins = zip(table[::2], table[1::2], strict=True)
    for own, others in pairs_of_bins:
        pairs, below = 0, 0
        for mine, theirs in zip(own, others, strict=True):
            pairs += mine * (2 * below + theirs)
            below += theirs
        if sum(own) and below:
            areas.append(pairs / (2 * sum(own) * below))
    return math.fsum(areas) / len(areas) if areas else math.nan


def _threshold(sums: Sums) -> float:
    """The upper end of the bin that `NORMAL_SHARE` of what is normal, or unlabelled, lies up to."""
    usual, _ = errors_of(sums.counts)
    wanted = NORMAL_SHARE * sum(usual)
    at = next((at for at, n in enumerate(accumulate(usual)) if n >= wanted), 0)
    return float(2.0 ** (FIRST_EXPONENT + (at + 1) / PER_OCTAVE)) if wanted else math.nan


def _constant_mae(sums: Sums) -> float:
    return min((sums.means[n].mean for n in CONSTANTS if n in sums.means), default=math.nan)


def _rmse(sums: Sums) -> float:
    return math.sqrt(sums.means[SQUARED].mean)


def _spread(sums: Sums) -> float:
    of = sums.means.get(TARGET)
    return math.sqrt(of.m2 / of.count) if of is not None and of.count else math.nan


def _r2(sums: Sums) -> float:
    """The share of the targets' variance that the model explains."""
    whole = sums.means[TARGET].m2
    return 1 - sums.means[SQUARED].mean * sums.examples / whole if whole else math.nan


DEFINED = {
    "accuracy": Defined("accuracy", _accuracy, (CLASSES,), constant=_largest),
    "macro_f1": Defined("macro-F1", _macro_f1, (CLASSES, LABELS), constant=_constant_f1),
    "ece": Defined("ECE", _ece, (CONFIDENCE,)),
    "auroc": Defined(
        "AUROC", _auroc, (SCORES, ERRORS), constant=lambda _: 0.5,
        takes="labelled examples of two classes",
    ),
    "threshold": Defined("99th percentile", _threshold, (ERRORS,), takes="normal examples"),
    "mae": Defined(
        "MAE", lambda sums: sums.means["mae"].mean, means=("mae",), constant=_constant_mae
    ),
    "rmse": Defined("RMSE", _rmse, means=(SQUARED,), constant=_spread),
    "r2": Defined(
        "R²", _r2, means=(SQUARED, TARGET), constant=lambda _: 0.0, takes="targets that differ"
    ),
}  # fmt: skip


def label(name: str, unit: str = "") -> str:
    """Name of a metric on screens."""
    text = DEFINED[name].label if name in DEFINED else name.replace("_", " ")
    return f"{text}, {unit}" if unit else text


def labels(found: Iterable[Metrics | None]) -> dict[str, str]:
    """Labels of the metrics in `found`, with their units, by name."""
    there = [each for each in found if each is not None]
    units = {name: unit for each in there for name, unit in (each.units or {}).items()}
    return {name: label(name, units.get(name, "")) for name in named(there)}


def named(found: Iterable[Metrics | None]) -> list[str]:
    """The metrics that these have figures of, in their order."""
    return list(dict.fromkeys(name for each in found if each for name in each.values))


def confusion_of(counts: Mapping[str, Table]) -> Table:
    """The confusion matrix, [target][prediction]; empty where there is none."""
    table = counts.get(CLASSES, ())
    return table if table and len(table) == len(table[0]) else ()


def errors_of(counts: Mapping[str, Table]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The histogram of what is normal, or unlabelled, and that of what is not."""
    rows = counts[ERRORS]
    half = len(rows) // 2
    return tuple(chain(*rows[:half])), tuple(chain(*rows[half:]))


def computed(values: Mapping[str, float]) -> dict[str, float]:
    """Those that could be computed: AUROC, for instance, takes examples of two classes."""
    return {name: value for name, value in values.items() if value != -sys.float_info.max}


def is_defined(value: float | None) -> bool:
    """Whether a figure could be computed, of a model that has not diverged."""
    return value is not None and abs(value) < sys.float_info.max  # not so is NaN, of version 0.1


def why_undefined(name: str) -> str:
    """Why a figure is not defined, as an end of a sentence."""
    takes = DEFINED[name].takes if name in DEFINED else ""
    cannot = f"{label(name)} cannot be computed"
    return f"{cannot}: it takes {takes}" if takes else f"{cannot}: it is NaN or infinite"


def each_figure(found: Metrics) -> list[str]:
    """Name, value and unit of each, in words."""
    return [
        f"{label(name)} {figure(value, 4)} {(found.units or {}).get(name, '')}".rstrip()
        for name, value in found.values.items()
    ]


def in_words(found: Metrics) -> str:
    """All its figures on one line."""
    return ", ".join(each_figure(found))


def averaged(measures: Measures) -> set[str]:
    """Names of what is averaged over the examples: the loss, and what the task itself gives."""
    found = {LOSS.name}
    for metric in measures.metrics:
        if metric.name in measures.states:
            continue
        known = DEFINED.get(metric.name)
        found.update(known.means if known else [metric.name.removesuffix(SPREAD)])
    return found


def tables(measures: Measures) -> dict[str, tuple[int, int]]:
    """Rows and columns of each table that the metrics need."""
    n, shapes = measures.classes, dict[str, tuple[int, int]]()
    match measures.says:
        case "class":
            shapes = {CLASSES: (n, n if n <= CONFUSION else 3), SCORES: (2 * n, BINS)}
            shapes[CONFIDENCE] = (CONFIDENCE_BINS, 3)
        case "labels":
            shapes = {LABELS: (n, 3)}
        case "score":
            shapes = {ERRORS: (2 * ERROR_BINS // ERROR_ROW, ERROR_ROW)}
    needed = {t for m in measures.metrics if m.name in DEFINED for t in DEFINED[m.name].tables}
    return {name: shape for name, shape in shapes.items() if name in needed}


def metrics_of(sums: Sums, measures: Measures, derive: Derive = lambda _: {}) -> Metrics:
    """The figures; `derive` computes those of torchmetrics. One that cannot be computed, or of a
    model that has diverged, is the worst number that there is: JSON has no NaN, and no such round
    is the best."""
    derived = derive(sums) if measures.states else {}
    found = {metric.name: _value(sums, metric, derived) for metric in measures.metrics}
    units = {metric.name: metric.unit for metric in measures.metrics if metric.unit}
    constants = {name: DEFINED[name].constant(sums) for name in found if name in DEFINED}
    return Metrics(
        examples=sums.examples,
        values=found,
        counts=sums.counts,
        units=units or None,
        constant={name: value for name, value in constants.items() if math.isfinite(value)},
    )


def _value(sums: Sums, metric: Metric, derived: Mapping[str, float]) -> float:
    name = metric.name
    if name in derived:
        value = derived[name]
    elif name in DEFINED:
        value = DEFINED[name].value(sums)
    elif name in sums.means:
        value = sums.means[name].mean
    else:
        of = sums.means[name.removesuffix(SPREAD)]
        value = math.sqrt(of.m2 / of.count) if of.count else math.nan
    return value if math.isfinite(value) else math.copysign(sys.float_info.max, metric.lower - 0.5)


def from_confusion(loss: float, confusion: Sequence[Sequence[int]]) -> Sums:
    """Sums of one part of the data; `loss` is its mean."""
    table = tuple(tuple(row) for row in confusion)
    examples = sum(map(sum, table))
    means = {LOSS.name: Moments(count=examples, mean=loss)}
    return Sums(examples=examples, means=means, counts={CLASSES: table})


def merge(parts: Sequence[Sums]) -> Sums:
    """Sums over the union of the parts' examples, of which there are some in the same tables."""
    first, *_ = parts
    return Sums(
        examples=sum(part.examples for part in parts),
        means={
            name: pooled([part.means[name] for part in parts])
            for name in first.means
            if all(name in part.means for part in parts)
        },
        counts={name: _added([part.counts[name] for part in parts]) for name in first.counts},
        states={
            name: tuple(map(_sum, zip(*(part.states[name] for part in parts), strict=True)))
            for name in first.states
        },
    )


def pooled(parts: Sequence[Moments]) -> Moments:
    """Moments of all their numbers together (Chan et al. 1979). Exact sums, rounded once, give the
    same bytes in any order."""
    n = sum(part.count for part in parts)
    mean = _sum(part.mean * (part.count / max(1, n)) for part in parts)
    away = ((part, part.mean - mean) for part in parts)
    return Moments(count=n, mean=mean, m2=_sum(p.m2 + p.count * by * by for p, by in away))


def _sum(numbers: Iterable[float]) -> float:
    try:
        return math.fsum(numbers)
    except (OverflowError, ValueError):  # too large, or infinities of both signs
        return math.nan


def _added(parts: Sequence[Table]) -> Table:
    return tuple(tuple(map(sum, zip(*rows, strict=True))) for rows in zip(*parts, strict=True))


def by_class(table: Table) -> Table:
    """Hits, targets and predictions of each class."""
    if len(table) > CONFUSION:
        return table
    hits = (row[at] for at, row in enumerate(table))
    return tuple(zip(hits, map(sum, table), map(sum, zip(*table, strict=True)), strict=True))
