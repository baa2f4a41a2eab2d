"""Metrics from confusion matrices."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flctl.core.metrics import Tally, from_confusion, merge, verified
from flctl.wire.messages import Metrics

tables = st.integers(1, 4).flatmap(
    lambda n: st.lists(st.lists(st.integers(0, 99), min_size=n, max_size=n), min_size=n, max_size=n)
)


def test_metrics_are_those_computed_by_hand():
    """Targets a a a b b b, predictions a a c b b a, and d that does not occur."""
    metrics = from_confusion(0.7, [[2, 0, 1, 0], [1, 2, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    assert metrics.examples == 6 and metrics.loss == 0.7
    assert metrics.accuracy == pytest.approx(4 / 6)
    # F1: a = 2·2/(3+3), b = 2·2/(3+2), c = 0/1; d does not count.
    assert metrics.macro_f1 == pytest.approx((4 / 6 + 4 / 5 + 0) / 3)


def test_one_class_alone_can_be_perfect():
    """Classes that never occur do not lower the mean F1."""
    assert from_confusion(0.1, np.diag([5, 0, 0]).tolist()).macro_f1 == 1.0


def test_nothing_evaluated_is_no_division_by_zero():
    """Zeros, and no warning."""
    metrics = from_confusion(0.0, [[0, 0], [0, 0]])
    assert (metrics.accuracy, metrics.macro_f1, metrics.examples) == (0.0, 0.0, 0)


@settings(max_examples=100, deadline=None)
@given(tables)
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
    assert from_confusion(1.0, table).macro_f1 == pytest.approx(expected)


def test_merged_metrics_are_those_of_one_evaluation():
    """Two agents of 10 and 30 examples: the loss is weighted, the confusion is added."""
    first = from_confusion(2.0, [[4, 1], [2, 3]])
    second = from_confusion(1.0, [[20, 0], [5, 5]])
    merged = merge([first, second])
    assert merged.loss == pytest.approx((2.0 * 10 + 1.0 * 30) / 40)
    assert merged == from_confusion(merged.loss, [[24, 1], [7, 8]])


def test_merging_cannot_overflow():
    """The largest loss that a message can hold, from two agents."""
    part = from_confusion(1.7e308, [[10, 0], [0, 10]])
    assert merge([part, part]).loss == pytest.approx(1.7e308)


@pytest.mark.parametrize("parts", [[], [[[1]], [[1, 0], [0, 1]]]])
def test_only_the_same_classes_can_be_merged(parts):
    """None, or agents of different tasks."""
    with pytest.raises(ValueError, match="same classes"):
        merge([from_confusion(1.0, part) for part in parts])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"loss": math.nan}, "finite"),
        ({"loss": math.inf}, "finite"),
        ({"loss": 1.7e308}, "finite"),  # three of them have no sum
        ({"examples": 999}, "add up"),
        ({"examples": 0, "confusion": ()}, "add up"),
        ({"confusion": ((10, 0),)}, "not square"),
        ({"confusion": ((2, 1), (1, 2), (2, 2))}, "not square"),
        ({"confusion": ((10,), ())}, "inhomogeneous"),
        ({"confusion": ((2**53, 2**53), (2**53, 2**53))}, "add up"),
    ],
)
def test_metrics_that_do_not_go_together_are_refused(change, reason):
    """An agent cannot bring the coordinator down with what it says about itself."""
    claim = {"loss": 1.0, "accuracy": 1.0, "macro_f1": 1.0, "examples": 10}
    claim["confusion"] = ((5, 1), (1, 3))
    with pytest.raises(ValueError, match=reason):
        verified(Metrics(**{**claim, **change}), 1000)


@pytest.mark.parametrize(
    ("counts", "reason"),
    [
        ([(0, 5, 5), (0, 4, 5)], "add up"),
        ([(0, 5, 5), (0, 5, 4)], "add up"),
        ([(6, 5, 6), (0, 5, 4)], "more hits"),
        ([(0, 0, 0)], "add up"),
        ([(0, 2**53, 2**53)] * 2048 + [(0, 10, 10)], "add up"),  # to 10 again, in 64 bits
    ],
)
def test_counts_by_class_that_do_not_go_together_are_refused(counts, reason):
    claim = Metrics(loss=1.0, accuracy=1.0, macro_f1=1.0, examples=10, per_class=tuple(counts))
    with pytest.raises(ValueError, match=reason):
        verified(claim, 1000)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 119), st.integers(0, 119)), min_size=1, max_size=300))
def test_counts_by_class_say_what_the_confusion_says(pairs):
    """The same accuracy and F1, also of one whose agents sent both."""
    tally, table = Tally(120), np.zeros((120, 120), np.int64)
    for cut in (slice(0, 7), slice(7, None)):
        if some := pairs[cut]:
            tally.add(*np.array(some).T)
            np.add.at(table, tuple(np.array(some).T), 1)
    found, whole = tally.metrics(0.5), from_confusion(0.5, table.tolist())
    assert found.confusion == () and len(found.per_class) == 120
    for name in ("accuracy", "macro_f1", "examples", "loss"):
        assert getattr(found, name) == getattr(whole, name)
    assert verified(found, len(pairs)) == found
    assert merge([found, whole]) == merge([found, found])
    assert merge([found, whole]).macro_f1 == merge([whole, whole]).macro_f1


def test_claimed_figures_are_computed_anew():
    """Only loss and confusion are believed."""
    claim = Metrics(
        loss=1.0, accuracy=math.nan, macro_f1=9.0, examples=10, confusion=((5, 1), (1, 3))
    )
    assert verified(claim, 10) == from_confusion(1.0, [[5, 1], [1, 3]])


def test_more_examples_than_declared_are_refused():
    """One agent cannot outweigh the others by a claim."""
    with pytest.raises(ValueError, match="10 examples, 9 were declared"):
        verified(from_confusion(1.0, [[5, 1], [1, 3]]), 9)
