"""Metrics from sums."""

import math
import random
import statistics
import sys

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flctl.core.metrics import (
    BINS,
    DEFAULT_METRICS,
    averaged,
    from_confusion,
    label,
    merge,
    metrics_of,
    pooled,
    tables,
)
from flctl.core.plausible import verified
from flctl.core.spread import mean
from flctl.wire.messages import Measures, Metric, Metrics, Moments, Sums

counted = st.integers(1, 4).flatmap(
    lambda n: st.lists(st.lists(st.integers(0, 99), min_size=n, max_size=n), min_size=n, max_size=n)
)


def by(classes: int, *names: str) -> Measures:
    metrics = (*DEFAULT_METRICS, *map(Metric, names))
    return Measures(metrics=metrics, primary="loss", classes=classes)


def figures(loss: float, table) -> Metrics:
    return metrics_of(from_confusion(loss, table), by(len(table)))


def test_metrics_are_those_computed_by_hand():
    """Targets a a a b b b, predictions a a c b b a, and d that does not occur."""
    found = figures(0.7, [[2, 0, 1, 0], [1, 2, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    assert found.examples == 6 and found.values["loss"] == 0.7
    assert found.values["accuracy"] == pytest.approx(4 / 6)
    # F1: a = 2·2/(3+3), b = 2·2/(3+2), c = 0/1; d does not count.
    assert found.values["macro_f1"] == pytest.approx((4 / 6 + 4 / 5 + 0) / 3)


def test_one_class_alone_can_be_perfect():
    """Classes that never occur do not lower the mean F1."""
    assert figures(0.1, np.diag([5, 0, 0]).tolist()).values["macro_f1"] == 1.0


def test_nothing_evaluated_is_no_division_by_zero():
    """Zeros, and no warning."""
    values = figures(0.0, [[0, 0], [0, 0]]).values
    assert values == {"loss": 0.0, "accuracy": 0.0, "macro_f1": 0.0}


@settings(max_examples=100, deadline=None)
@given(counted)
def test_macro_f1_is_the_mean_of_the_classes_harmonic_means(table):
    """Against precision and recall, class by class."""
    array = np.array(table)
    scores = []
    for c in range(len(table)):
        targets, predictions, hits = array[c].sum(), array[:, c].sum(), array[c, c]
        if targets + predictions == 0:
            continue
        precision = hits / predictions if predictions else 0.0
        recall = hits / targets if targets else 0.0
        both = precision + recall
        scores.append(2 * precision * recall / both if both else 0.0)
    expected = float(np.mean(scores)) if scores else 0.0
    assert figures(1.0, table).values["macro_f1"] == pytest.approx(expected)


def test_merged_sums_are_those_of_one_evaluation():
    """Two agents of 10 and 30 examples: the loss is weighted, the confusion is added."""
    merged = merge([from_confusion(2.0, [[4, 1], [2, 3]]), from_confusion(1.0, [[20, 0], [5, 5]])])
    assert merged.means["loss"].mean == pytest.approx((2.0 * 10 + 1.0 * 30) / 40)
    assert merged.counts == {"classes": ((24, 1), (7, 8))} and merged.examples == 40


def test_merging_cannot_overflow():
    """The largest loss that a message can hold, from two agents; and both ends of it."""
    part = from_confusion(1.7e308, [[10, 0], [0, 10]])
    assert merge([part, part]).means["loss"].mean == pytest.approx(1.7e308)
    other = from_confusion(-1.7e308, [[10, 0], [0, 10]])
    assert merge([part, other]).means["loss"].mean == 0.0


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.floats(-1e6, 1e6), min_size=1), min_size=1, max_size=8), st.randoms())
def test_moments_are_those_of_all_numbers_whatever_the_order(parts, shuffled: random.Random):
    """Mean and spread, byte for byte the same; around a large number too, where Σy² would fail."""
    for away in (0.0, 1e9):
        moved = [[number + away for number in part] for part in parts]
        found = [
            Moments(
                count=len(p),
                mean=(m := math.fsum(p) / len(p)),
                m2=math.fsum((x - m) ** 2 for x in p),
            )
            for p in moved
        ]
        whole = pooled(found)
        numbers = [number for part in moved for number in part]
        assert whole.count == len(numbers)
        assert whole.mean == pytest.approx(statistics.fmean(numbers), abs=1e-6)
        spread = math.sqrt(whole.m2 / whole.count)
        assert spread == pytest.approx(statistics.pstdev(numbers), rel=1e-5, abs=1e-4)
        shuffled.shuffle(found)
        assert pooled(found) == whole


def test_a_tasks_own_metric_is_the_mean_and_its_spread():
    """Named by the task alone; nothing else has to know of it."""
    measures = by(2, "error_mv", "error_mv_sd")
    assert averaged(measures) == {"loss", "error_mv"}
    sums = from_confusion(0.5, [[2, 0], [0, 2]])
    own = {**sums.means, "error_mv": Moments(count=4, mean=3.0, m2=16.0)}
    sums = verified(msgspec.structs.replace(sums, means=own), measures, 4)
    values = metrics_of(sums, measures).values
    assert (values["error_mv"], values["error_mv_sd"]) == (3.0, 2.0)
    assert [label(name) for name in values] == [
        "loss", "accuracy", "macro-F1", "error mv", "error mv sd",
    ]  # fmt: skip


def scores(pairs: list[tuple[int, float]]) -> Sums:
    """Of two classes; each pair is a class and the probability that the model gives to 1."""
    table = np.zeros((4, BINS), int)
    for target, share in pairs:
        for c, p in enumerate((1 - share, share)):
            table[2 * c + (target != c), min(int(p * BINS), BINS - 1)] += 1
    sums = from_confusion(0.5, [[len(pairs), 0], [0, 0]])
    counts = {**sums.counts, "scores": tuple(map(tuple, table.tolist()))}
    return msgspec.structs.replace(sums, counts=counts)


def test_auroc_is_the_share_of_pairs_in_the_right_order():
    """Against all pairs; equal scores count half; of two agents together."""
    rng = np.random.default_rng(1)
    pairs = [(int(t), float(rng.beta(2 + 3 * t, 3))) for t in rng.integers(0, 2, 300)]
    ones, zeros = ([p for t, p in pairs if t == c] for c in (1, 0))
    right = np.mean([(a > b) + (a == b) / 2 for a in ones for b in zeros])
    merged = merge([scores(pairs[:100]), scores(pairs[100:])])
    assert merged.counts["scores"] == scores(pairs).counts["scores"]
    assert metrics_of(merged, by(2, "auroc")).values["auroc"] == pytest.approx(right, abs=0.02)
    assert metrics_of(scores([(1, 0.5), (0, 0.5)]), by(2, "auroc")).values["auroc"] == 0.5
    alone = metrics_of(scores([(1, 0.5)]), by(2, "auroc")).values["auroc"]
    assert alone == -sys.float_info.max, "of one class there is none: never the best"


GOOD = from_confusion(1.0, [[5, 1], [1, 3]])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"means": {"loss": Moments(count=10, mean=math.nan)}}, "finite"),
        ({"means": {"loss": Moments(count=10, mean=math.inf)}}, "finite"),
        ({"means": {"loss": Moments(count=10, mean=1.7e308)}}, "finite"),  # no sum of three
        ({"means": {"loss": Moments(count=10, mean=1.0, m2=-1.0)}}, "finite"),
        ({"means": {"loss": Moments(count=10, mean=1.0, m2=math.nan)}}, "finite"),
        ({"means": {"loss": Moments(count=2**53, mean=1.0)}}, "not 10"),
        ({"means": {}}, "not those"),
        ({"means": {**GOOD.means, "more": Moments(count=10, mean=1.0)}}, "not those"),
        ({"examples": 999}, "not 999"),
        ({"examples": 0}, "0 examples"),
        ({"counts": {}}, "not those"),
        ({"counts": {**GOOD.counts, "more": ((1,),)}}, "not those"),
        ({"counts": {"classes": ((10, 0),)}}, "not of 2 x 2"),
        ({"counts": {"classes": ((2, 1), (1, 2), (2, 2))}}, "not of 2 x 2"),
        ({"counts": {"classes": ((10,), ())}}, "not of 2 x 2"),
        ({"counts": {"classes": ((2**53, 2**53), (2**53, 2**53))}}, "add up"),
        ({"counts": {"classes": ((5, 1), (1, 2))}}, "add up"),
    ],
)
def test_sums_that_do_not_go_together_are_refused(change, reason):
    """An agent cannot bring the coordinator down with what it says about itself."""
    assert verified(GOOD, by(2), 10) == GOOD
    with pytest.raises(ValueError, match=reason):
        verified(msgspec.structs.replace(GOOD, **change), by(2), 1000)


@pytest.mark.parametrize(
    ("row", "reason"),
    [((0, 5), "add up"), ((0, 5, 4), "not of"), ((6, 5), "add up")],
)
def test_scores_that_do_not_add_up_are_refused(row, reason):
    good = scores([(1, 0.7), (0, 0.2), (1, 0.9)])
    assert verified(good, by(2, "auroc"), 3) == good
    first = (*row, *[0] * (BINS - 2))
    table = (first, *good.counts["scores"][1:])
    with pytest.raises(ValueError, match=reason):
        verified(
            msgspec.structs.replace(good, counts={**good.counts, "scores": table}),
            by(2, "auroc"),
            3,
        )


NUMBERS = Measures(
    metrics=tuple(map(Metric, ("loss", "mae", "rmse", "r2"))),
    primary="loss",
    classes=0,
    says="number",
)
MOMENTS = {
    "loss": Moments(count=4, mean=1.0),
    "mae": Moments(count=4, mean=1.0),
    "squared_error": Moments(count=4, mean=2.0),
    "target": Moments(count=4, mean=-1e6, m2=16.0),
}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"squared_error": Moments(count=4, mean=-2.0)}, "squared_error is negative"),
        ({"mae": Moments(count=4, mean=-1.0)}, "mae is negative"),
        ({"target": Moments(count=4, mean=1.0, m2=-1.0)}, "finite"),
        ({"target": Moments(count=5, mean=1.0)}, "not 4"),
        ({"more": Moments(count=4, mean=1.0)}, "not those"),
    ],
)
def test_moments_of_numbers_that_cannot_be_are_refused(change, reason):
    """No root of a negative number at the coordinator; the largest ones overflow to the worst."""
    good = Sums(examples=4, means=MOMENTS)
    values = metrics_of(verified(good, NUMBERS, 4), NUMBERS).values
    assert (values["rmse"], values["r2"]) == (math.sqrt(2), 1 - 8 / 16)
    with pytest.raises(ValueError, match=reason):
        verified(Sums(examples=4, means=MOMENTS | change), NUMBERS, 4)
    far = Moments(count=4, mean=1e300, m2=1e-300)
    worst = Sums(examples=4, means=MOMENTS | {"squared_error": far, "target": far})
    assert metrics_of(verified(worst, NUMBERS, 4), NUMBERS).values["r2"] == -sys.float_info.max


@pytest.mark.parametrize(
    ("says", "name", "table", "reason"),
    [
        ("labels", "labels", [[3, 3, 3], [1, 2, 1]], ""),
        ("labels", "labels", [[4, 3, 3], [1, 2, 1]], "add up"),
        ("labels", "labels", [[0, 3, 2], [1, 2, 1]], "add up"),  # of four examples, five
        ("labels", "labels", [[3, 3], [1, 2]], "not of 2 x 3"),
        ("score", "errors", [[0] * 128] * 15 + [[4] + [0] * 127], ""),
        ("score", "errors", [[0] * 128] * 16, "add up"),
        ("score", "errors", [[0] * 128] * 15 + [[5] + [0] * 127], "add up"),
        ("score", "errors", [[0] * 128] * 15, "not of 16 x 128"),
    ],
)
def test_tables_of_other_kinds_are_checked_too(says, name, table, reason):
    metrics = {"labels": ("macro_f1",), "score": ("auroc", "threshold")}[says]
    by = Measures(
        metrics=tuple(map(Metric, ("loss", *metrics))), primary="loss", classes=2, says=says
    )
    sums = Sums(
        examples=4,
        means={"loss": Moments(count=4, mean=1.0)},
        counts={name: tuple(map(tuple, table))},
    )
    if not reason:
        assert metrics_of(verified(sums, by, 4), by).values.keys() == {"loss", *metrics}
        return
    with pytest.raises(ValueError, match=reason):
        verified(sums, by, 4)


def by_class(counts, classes: int) -> Sums:
    rows = [*counts, *[(0, 0, 0)] * (classes - len(counts))]
    means = {"loss": Moments(count=10, mean=1.0)}
    return Sums(examples=10, means=means, counts={"classes": tuple(rows)})


@pytest.mark.parametrize(
    "counts",
    [
        [(0, 5, 5), (0, 4, 5)],
        [(0, 5, 5), (0, 5, 4)],
        [(6, 5, 6), (0, 5, 4)],
        [(0, 0, 0)],
        [(0, 2**53, 2**53)] * 2048 + [(0, 10, 10)],  # to 10 again, in 64 bits
    ],
)
def test_counts_by_class_that_do_not_go_together_are_refused(counts):
    with pytest.raises(ValueError, match="add up"):
        verified(by_class(counts, 3000), by(3000), 1000)
    assert verified(by_class([(3, 5, 5), (4, 5, 5)], 3000), by(3000), 10)


def test_more_than_a_hundred_classes_are_counted_by_class():
    """What travels grows with the classes, not with their square."""
    assert tables(by(100)) == {"classes": (100, 100)}
    assert tables(by(101)) == {"classes": (101, 3)}
    assert tables(by(3, "auroc"))["scores"] == (6, BINS)
    few = metrics_of(by_class([(3, 5, 5), (4, 5, 5)], 101), by(101)).values
    whole = figures(1.0, [[3, 2], [1, 4]]).values
    assert few["accuracy"] == whole["accuracy"]
    assert few["macro_f1"] == pytest.approx((2 * 3 / 10 + 2 * 4 / 10) / 2)


def test_more_examples_than_declared_are_refused():
    """One agent cannot outweigh the others by a claim."""
    with pytest.raises(ValueError, match="10 examples, 9 were declared"):
        verified(GOOD, by(2), 9)


def test_the_mean_of_several_models_counts_each_once():
    """Whatever each was measured on."""
    one, two = figures(1.0, [[1, 0], [0, 1]]), figures(3.0, [[10, 10], [0, 0]])
    assert mean([one, two]).values["loss"] == 2.0
    assert mean([one, two]).values["accuracy"] == 0.75 and mean([one, two]).examples == 20


def test_a_constant_answer_stands_beside_each_figure():
    """By hand: the largest class, every label, the mean number."""
    found = figures(0.7, [[2, 0, 1, 0], [1, 3, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    assert found.constant["accuracy"] == 4 / 7
    # Always b: 2·4/(4+7) for b, 0 for a; c and d do not occur.
    assert found.constant["macro_f1"] == pytest.approx(8 / 11 / 2)
    targets = np.array([1.0, 2.0, 4.0, 5.0])
    moments = {
        "loss": Moments(count=4, mean=1.0),
        "squared_error": Moments(count=4, mean=1.0),
        "mae": Moments(count=4, mean=1.0),
        "target": Moments(count=4, mean=3.0, m2=float(((targets - 3) ** 2).sum())),
    }
    usual = metrics_of(Sums(examples=4, means=moments), NUMBERS).constant
    assert usual == {"rmse": pytest.approx(float(targets.std())), "r2": 0.0}
    labelled = Measures(
        metrics=(Metric("loss"), Metric("macro_f1")), primary="loss", classes=2, says="labels"
    )
    two = Sums(
        examples=4,
        means={"loss": Moments(count=4, mean=1.0)},
        counts={"labels": ((1, 3, 2), (0, 0, 1))},
    )
    assert metrics_of(two, labelled).constant == {"macro_f1": pytest.approx(2 * 3 / 7)}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60))
def test_calibration_is_that_of_the_papers(told):
    """Guo et al. 2017, equation 3, with 15 bins; the sums of two parts add up to it."""
    from flctl.learning.evaluation import Tally

    measures = by(2, "ece")

    def sums_of(part) -> Sums:
        tally = Tally(measures)
        shares, right = (np.array(each) for each in zip(*part, strict=True))
        tally.add_means({}, 1.0, len(part))
        tally.add_classes(np.zeros(len(part), np.int64), (~right).astype(np.int64))
        tally.add_confidence(right, shares)
        return verified(tally.sums(), measures, len(part))

    shares, right = (np.array(each, dtype=float) for each in zip(*told, strict=True))
    units = np.rint(shares * 10_000)
    bins = np.minimum(units * 15 // 10_000, 14)
    expected = sum(
        abs(right[bins == b].sum() - units[bins == b].sum() / 10_000) for b in range(15)
    ) / len(told)
    whole = metrics_of(sums_of(told), measures).values["ece"]
    assert whole == pytest.approx(expected, abs=1e-12)
    parts = [part for part in (told[::2], told[1::2]) if part]
    assert metrics_of(merge([sums_of(part) for part in parts]), measures).values["ece"] == whole


@pytest.mark.parametrize(
    ("at", "row"),
    [(0, (10, 11, 100)), (0, (10, 5, 10_000)), (14, (10, 5, 0)), (14, (10, 5, 100_001)),
     (3, (9, 5, 20_000))],
)  # fmt: skip
def test_an_impossible_calibration_is_refused(at, row):
    """More hits than examples, probabilities outside of their bin, another count of examples."""
    rows = [(0, 0, 0)] * 15
    rows[at] = row
    sums = Sums(
        examples=10,
        means={"loss": Moments(count=10, mean=1.0)},
        counts={"classes": ((5, 0), (0, 5)), "confidence": tuple(rows)},
    )
    with pytest.raises(ValueError, match="'confidence' does not add up"):
        verified(sums, by(2, "ece"), 10)
