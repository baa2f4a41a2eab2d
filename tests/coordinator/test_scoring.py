"""Scores from those who evaluated, some of whom may be wrong or hostile."""

import json
import math
import sys

import msgspec
import pytest

from flctl.coordinator.run.scoring import parts_to_ask_for, scored
from flctl.core.events import Score
from flctl.core.history import best_round
from flctl.core.metrics import DEFAULT_METRICS, from_confusion, metrics_of
from flctl.errors import RunError
from flctl.wire.messages import Measures, Metric

TWO = Measures(metrics=DEFAULT_METRICS, primary="loss", classes=2)
GOOD = from_confusion(0.5, [[8, 2], [1, 9]])
POOR = from_confusion(2.0, [[1, 4], [3, 2]])


def test_the_coordinators_first_part_counts():
    """The others, such as unseen patients, stand beside it under their names."""
    score = scored({"later beats": GOOD, "unseen patients": POOR}, {}, TWO)
    assert score is not None
    assert (score.source, score.part, score.values["loss"]) == ("coordinator", "later beats", 0.5)
    assert score.beside == {"unseen patients": metrics_of(POOR, TWO)}


def test_without_test_data_the_error_says_how_to_go_on():
    """When the coordinator was told to evaluate."""
    with pytest.raises(RunError, match="no test data; use --evaluate agents"):
        parts_to_ask_for("coordinator", {"validation": GOOD})


def test_the_agents_answers_are_one_evaluation():
    """Weighted by their examples; each one's own beside."""
    score = scored({}, {"test": {"pi-02": POOR, "pi-01": GOOD}}, TWO)
    assert score is not None
    assert score.values["loss"] == pytest.approx((0.5 * 20 + 2.0 * 10) / 30)
    assert (score.source, score.examples) == ("agents", 30)
    assert score.counts["classes"] == ((9, 6), (4, 11))
    assert list(score.beside) == ["pi-01", "pi-02"]
    assert score.beside["pi-01"].counts["classes"] == ((8, 2), (1, 9))
    assert scored({}, {"test": {}}, TWO) is None


def test_large_confusion_matrices_of_single_agents_are_not_kept():
    """A thousand classes would be a million numbers for each agent and round."""
    many = from_confusion(1.0, [[int(i == j) for j in range(21)] for i in range(21)])
    measures = msgspec.structs.replace(TWO, classes=21)
    score = scored({}, {"test": {"pi-01": many, "pi-02": many}}, measures)
    assert score is not None and len(score.counts["classes"]) == 21
    assert score.beside["pi-01"].counts == {} and score.beside["pi-01"].values["accuracy"] == 1.0


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_the_score_of_a_model_that_has_diverged_can_be_kept(loss):
    """JSON has no NaN; the largest number is the worst loss, and never the best round."""
    bad = from_confusion(loss, [[1, 1], [1, 1]])
    score = scored({"test": bad, "other": bad, "validation": bad}, {}, TWO)
    assert score is not None and score.chosen == sys.float_info.max
    assert score.values["loss"] == score.beside["other"].values["loss"] == sys.float_info.max
    line = msgspec.json.encode(score)
    assert msgspec.json.decode(line, type=Score) == score and "null" not in str(json.loads(line))


def test_the_score_says_what_the_best_round_is_chosen_by():
    """Also a metric of which more is better."""
    measures = Measures(metrics=DEFAULT_METRICS, primary="macro_f1", classes=2)
    score = scored({"test": GOOD, "validation": POOR}, {}, measures)
    assert score is not None and score.primary == Metric("macro_f1")
    assert score.rule == "highest macro-F1 on validation"
    assert score.chosen == metrics_of(POOR, measures).values["macro_f1"] != score.values["macro_f1"]
    assert score.beside == {} and score.part == "test"


def test_what_the_coordinator_lacks_the_agents_are_asked_for():
    """Each part is measured where it is; what is here is asked of nobody."""
    assert parts_to_ask_for("agents", {}) == ("validation", "test")
    assert parts_to_ask_for("auto", {}) == ("validation", "test")
    assert parts_to_ask_for("auto", {"later": GOOD}) == ("validation",)
    assert parts_to_ask_for("auto", {"validation": GOOD}) == ("test",)
    assert parts_to_ask_for("auto", {"later": GOOD, "validation": GOOD}) == ()
    assert parts_to_ask_for("coordinator", {"later": GOOD}) == ()


def test_the_best_round_is_chosen_on_the_agents_validation_where_the_coordinator_has_none():
    """All of them together, whatever came first; the test stays the coordinator's."""
    one = scored({"later": GOOD}, {"validation": {"a": GOOD, "b": POOR}}, TWO)
    other = scored({"later": GOOD}, {"validation": {"b": POOR, "a": GOOD}}, TWO)
    assert one is not None and msgspec.json.encode(one) == msgspec.json.encode(other)
    assert (one.source, one.part, one.validated_by) == ("coordinator", "later", "agents")
    assert one.validation is not None and one.validation.examples == 30
    assert one.chosen == pytest.approx((0.5 * 20 + 2.0 * 10) / 30)


def test_without_a_test_the_validation_part_is_shown_as_what_it_is():
    score = scored({}, {"validation": {"a": GOOD}}, TWO)
    assert score is not None and (score.part, score.source) == ("validation", "agents")
    assert score.chosen == score.values["loss"] and set(score.beside) == {"a"}


def test_a_test_alone_chooses_no_round():
    """It is measured, never chosen by."""
    score = scored({"later": GOOD}, {}, TWO)
    assert score is not None and score.chosen is None
    assert best_round({1: score}) is None
