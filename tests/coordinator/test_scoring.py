"""Scores from those who evaluated, some of whom may be wrong or hostile."""

import json
import math
import sys

import msgspec
import pytest

from flctl.coordinator.run.scoring import missing, scored
from flctl.coordinator.run.survey import Survey
from flctl.core.history import Score, best_round
from flctl.core.metrics import USUAL, from_confusion, metrics_of
from flctl.errors import RunError
from flctl.settings import RunSettings
from flctl.transport.gate import Gate
from flctl.wire.messages import Evaluate, Evaluated, Measures, Metric, WorkKey

TWO = Measures(metrics=USUAL, primary="loss", classes=2)
GOOD = from_confusion(0.5, [[8, 2], [1, 9]])
POOR = from_confusion(2.0, [[1, 4], [3, 2]])
KEY = WorkKey(run="ecg-1", version=7, base="b" * 64)


def test_the_coordinators_first_part_counts():
    """The others, such as unseen patients, stand beside it under their names."""
    score = scored({"later beats": GOOD, "unseen patients": POOR}, {}, TWO)
    assert score is not None
    assert (score.source, score.part, score.values["loss"]) == ("coordinator", "later beats", 0.5)
    assert score.beside == {"unseen patients": metrics_of(POOR, TWO)}


def test_without_test_data_the_error_says_how_to_go_on():
    """When the coordinator was told to evaluate."""
    with pytest.raises(RunError, match="no test data; go on with --evaluate agents"):
        missing("coordinator", {"validation": GOOD})


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


def test_an_agent_with_other_classes_does_not_stop_the_run(caplog):
    """Its answer is left out, and the log names it."""
    asked, _ = survey("ab")
    odd = from_confusion(9.0, [[1, 0, 0], [0, 1, 0], [0, 0, 1]])
    asked.on_answer("a", Evaluated(key=KEY, part="test", sums=odd), 100)
    asked.on_answer("b", Evaluated(key=KEY, part="test", sums=GOOD), 100)
    assert asked.answers["test"] == {"b": GOOD} and "agent=a sent impossible" in caplog.text


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_the_score_of_a_model_that_has_diverged_can_be_kept(loss):
    """JSON has no NaN; the largest number is the worst loss, and never the best round."""
    bad = from_confusion(loss, [[1, 1], [1, 1]])
    score = scored({"test": bad, "other": bad, "validation": bad}, {}, TWO)
    assert score is not None and score.chosen == sys.float_info.max
    assert score.values["loss"] == score.beside["other"].values["loss"] == sys.float_info.max
    line = msgspec.json.encode(score)
    assert msgspec.json.decode(line, type=Score) == score and "null" not in str(json.loads(line))


class Told(list):
    def __call__(self, agent, message) -> bool:
        self.append((agent, message))
        return True


def survey(agents="ab", deadline_s=30.0, parts=("test",)) -> tuple[Survey, Told]:
    told = Told()
    settings = RunSettings(task="ecg", deadline_s=deadline_s)
    return Survey(KEY, 100, settings, TWO, dict.fromkeys(agents, parts), told, 1000.0, Gate()), told


def test_a_survey_asks_everybody_and_ends_with_the_last_answer():
    """Answers come in any order."""
    asked, told = survey("ba")
    assert [agent for agent, _ in told] == ["a", "b"]
    assert all(isinstance(message, Evaluate) and message.key == KEY for _, message in told)
    assert not asked.on_answer("b", Evaluated(key=KEY, part="test", sums=GOOD), 100)
    assert asked.on_answer("a", Evaluated(key=KEY, part="test", sums=POOR), 100)
    assert asked.answers["test"] == {"a": POOR, "b": GOOD}


def test_a_survey_does_not_wait_for_those_who_are_gone_or_late():
    """Their answers are missing, and that is all."""
    asked, told = survey("abc")
    assert not asked.on_gone("a")
    asked.invite("b")
    asked.invite("a")
    assert [agent for agent, _ in told] == ["a", "b", "c", "b"], "who is gone is not asked again"
    assert not asked.on_time(1029.9)
    assert asked.on_time(1030.0)
    assert survey("")[0].on_time(1000.0), "nobody to ask is over at once"


def test_answers_about_another_model_or_from_strangers_do_not_count():
    """Nor does a second answer."""
    asked, _ = survey()
    other = msgspec.structs.replace(KEY, version=6)
    assert not asked.on_answer("a", Evaluated(key=other, part="test", sums=POOR), 100)
    assert not asked.on_answer("z", Evaluated(key=KEY, part="test", sums=POOR), 100)
    asked.on_answer("a", Evaluated(key=KEY, part="test", sums=GOOD), 100)
    asked.on_answer("a", Evaluated(key=KEY, part="test", sums=POOR), 100)
    assert asked.answers["test"] == {"a": GOOD}


@pytest.mark.parametrize(
    "change",
    [{"examples": 0}, {"examples": 10**15}, {"counts": {"classes": ((1, 2),)}}, {"counts": {}}],
)
def test_impossible_answers_are_left_out(change, caplog):
    """The agent is not waited for, and the log names it."""
    asked, _ = survey("a")
    claimed = msgspec.structs.replace(GOOD, **change)
    assert asked.on_answer("a", Evaluated(key=KEY, part="test", sums=claimed), 100)
    assert asked.answers == {} and "agent=a" in caplog.text


def test_the_score_says_what_the_best_round_is_chosen_by():
    """Also a metric of which more is better."""
    measures = Measures(metrics=USUAL, primary="macro_f1", classes=2)
    score = scored({"test": GOOD, "validation": POOR}, {}, measures)
    assert score is not None and score.primary == Metric("macro_f1")
    assert score.rule == "highest macro-F1 on validation"
    assert score.chosen == metrics_of(POOR, measures).values["macro_f1"] != score.values["macro_f1"]
    assert score.beside == {} and score.part == "test"


def test_what_the_coordinator_lacks_the_agents_are_asked_for():
    """Each part is measured where it is; what is here is asked of nobody."""
    assert missing("agents", {}) == ("validation", "test")
    assert missing("auto", {}) == ("validation", "test")
    assert missing("auto", {"later": GOOD}) == ("validation",)
    assert missing("auto", {"validation": GOOD}) == ("test",)
    assert missing("auto", {"later": GOOD, "validation": GOOD}) == ()
    assert missing("coordinator", {"later": GOOD}) == ()


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
