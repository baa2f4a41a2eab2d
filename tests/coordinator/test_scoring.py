"""Scores from those who evaluated, some of whom may be wrong or hostile."""

import json
import math
import sys

import msgspec
import pytest

from flctl.coordinator.run.scoring import by_agents, by_coordinator
from flctl.coordinator.run.survey import Survey
from flctl.core.history import Score
from flctl.core.metrics import from_confusion
from flctl.errors import RunError
from flctl.settings import RunSettings
from flctl.transport.gate import Gate
from flctl.wire.messages import Evaluate, Evaluated, Metrics, WorkKey

GOOD = from_confusion(0.5, [[8, 2], [1, 9]])
POOR = from_confusion(2.0, [[1, 4], [3, 2]])
KEY = WorkKey(run="ecg-1", version=7, base="b" * 64)


def test_the_coordinators_first_part_counts():
    """The others, such as unseen patients, stand beside it under their names."""
    score = by_coordinator({"later beats": GOOD, "unseen patients": POOR})
    assert (score.source, score.part, score.loss) == ("coordinator", "later beats", 0.5)
    assert score.beside == {"unseen patients": POOR}


def test_without_test_data_the_error_says_how_to_go_on():
    """When the coordinator was told to evaluate."""
    with pytest.raises(RunError, match="no test data; go on with --evaluate agents"):
        by_coordinator({})


def test_the_agents_answers_are_one_evaluation():
    """Weighted by their examples; each one's own beside."""
    score = by_agents({"pi-02": POOR, "pi-01": GOOD})
    assert score is not None
    assert score.loss == pytest.approx((0.5 * 20 + 2.0 * 10) / 30)
    assert (score.source, score.examples) == ("agents", 30)
    assert score.confusion == ((9, 6), (4, 11))
    assert list(score.beside) == ["pi-01", "pi-02"]
    assert score.beside["pi-01"].confusion == ((8, 2), (1, 9))
    assert by_agents({}) is None


def test_large_confusion_matrices_of_single_agents_are_not_kept():
    """A thousand classes would be a million numbers for each agent and round."""
    many = from_confusion(1.0, [[int(i == j) for j in range(21)] for i in range(21)])
    score = by_agents({"pi-01": many, "pi-02": many})
    assert score is not None and len(score.confusion) == 21
    assert score.beside["pi-01"].confusion == ()


def test_an_agent_with_other_classes_does_not_stop_the_run():
    """Its answer is left out; what most agents say counts."""
    odd = from_confusion(9.0, [[1, 0, 0], [0, 1, 0], [0, 0, 1]])
    score = by_agents({"a": odd, "b": GOOD, "c": POOR})
    assert score is not None and score.examples == 30 and set(score.beside) == {"b", "c"}


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_the_score_of_a_model_that_has_diverged_can_be_kept(loss):
    """JSON has no NaN; the largest number is the worst loss, and never the best round."""
    bad = from_confusion(loss, [[1, 1], [1, 1]])
    score = by_coordinator({"test": bad, "other": bad})
    assert score.loss == score.beside["other"].loss == sys.float_info.max
    line = msgspec.json.encode(score)
    assert msgspec.json.decode(line, type=Score) == score and "null" not in str(json.loads(line))


class Told(list):
    def __call__(self, agent, message) -> bool:
        self.append((agent, message))
        return True


def survey(agents="ab", deadline_s=30.0) -> tuple[Survey, Told]:
    told = Told()
    settings = RunSettings(task="ecg", deadline_s=deadline_s)
    return Survey(KEY, 100, settings, list(agents), told, 1000.0, Gate()), told


def test_a_survey_asks_everybody_and_ends_with_the_last_answer():
    """Answers come in any order."""
    asked, told = survey("ba")
    assert [agent for agent, _ in told] == ["a", "b"]
    assert all(isinstance(message, Evaluate) and message.key == KEY for _, message in told)
    assert not asked.on_answer("b", Evaluated(key=KEY, metrics=GOOD), 100)
    assert asked.on_answer("a", Evaluated(key=KEY, metrics=POOR), 100)
    assert asked.answers == {"a": POOR, "b": GOOD}


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
    other = msgspec.structs.replace(KEY, round=6)
    assert not asked.on_answer("a", Evaluated(key=other, metrics=POOR), 100)
    assert not asked.on_answer("z", Evaluated(key=KEY, metrics=POOR), 100)
    asked.on_answer("a", Evaluated(key=KEY, metrics=GOOD), 100)
    asked.on_answer("a", Evaluated(key=KEY, metrics=POOR), 100)
    assert asked.answers == {"a": GOOD}


@pytest.mark.parametrize(
    "change",
    [{"loss": math.nan}, {"examples": 0}, {"examples": 10**15}, {"confusion": ((1, 2),)}],
)
def test_impossible_answers_are_left_out(change, caplog):
    """The agent is not waited for, and the log names it."""
    asked, _ = survey("a")
    claimed = msgspec.structs.replace(GOOD, **change)
    assert asked.on_answer("a", Evaluated(key=KEY, metrics=claimed), 100)
    assert asked.answers == {} and "agent=a" in caplog.text


def test_accuracy_is_not_taken_on_trust():
    """It is computed from the confusion matrix."""
    asked, _ = survey("a")
    boast = Metrics(loss=0.1, accuracy=1.0, macro_f1=1.0, examples=20, confusion=GOOD.confusion)
    asked.on_answer("a", Evaluated(key=KEY, metrics=boast), 100)
    assert asked.answers["a"].accuracy == pytest.approx(17 / 20)
