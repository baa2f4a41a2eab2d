"""One evaluation on the agents: whom it asks, and what it does with their answers."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from flctl.coordinator.run.context import Heard
from flctl.coordinator.run.evaluating import Evaluating
from flctl.core.metrics import DEFAULT_METRICS, from_confusion
from flctl.core.round import Back, Gone, Tick
from flctl.settings import parse
from flctl.transport.gate import Gate
from flctl.wire.messages import (
    Coded,
    Evaluate,
    Evaluated,
    Failed,
    Measures,
    Metric,
    Model,
    Sums,
    WorkKey,
)

TASK = "t" * 64
MEASURES = Measures(metrics=DEFAULT_METRICS, primary="loss", classes=2)
GOOD = from_confusion(0.5, [[8, 2], [1, 9]])
POOR = from_confusion(2.0, [[1, 4], [3, 2]])
KEY = WorkKey(run="ecg-1", version=2, base="b" * 64)
EARLIER = WorkKey(run="ecg-1", version=1, base="a" * 64)


class Member:
    """Has 100 examples of the part for testing."""

    def __init__(self, digest: str = TASK) -> None:
        self.hello, self.tests = SimpleNamespace(role="train", tasks={"ecg": digest}), 100

    def examples(self, task: str, dataset: str, part: str) -> int:
        return self.tests * (part == "test")


class Rig:
    """An evaluation by these agents, all of whom are here."""

    def __init__(
        self,
        evaluate: str = "agents",
        done: int = 1,
        measures: Measures = MEASURES,
        refused: dict[str, Any] | None = None,
        **members: Member,
    ) -> None:
        self.asked: list[str] = []
        self.over: list[Any] = []
        self.submitted: list[Any] = []
        self.works: list[Any] = []
        self.now = 1000.0
        roster = SimpleNamespace(members=members, is_free=lambda name: True)
        fleet = SimpleNamespace(roster=roster, tell=self._tell, gate=Gate(lambda: 0.0))
        context: Any = SimpleNamespace(
            settings=parse({"task": "ecg", "evaluate": evaluate, "deadline_s": 30.0}, "the test"),
            started=SimpleNamespace(task_digest=TASK, measures=measures, begun=None, private=None),
            host=fleet,
            history=SimpleNamespace(round=done, exhausted=set(), accepted={}, positions={}),
            model=lambda blob, size: Model(shared=Coded(blob=blob, size=size)),
            serve=lambda *_: None,
            clock=lambda: self.now,
            is_here=lambda name: True,
            refused={} if refused is None else refused,
            thinking=SimpleNamespace(submit=self._submit),
            evaluator=SimpleNamespace(derive=lambda settings, sums: {"mcc": sums.states["mcc"][0]}),
        )
        made: Any = SimpleNamespace(path=Path("model"), size=9)
        self.evaluating = Evaluating(context, KEY, made, {}, lambda *found: self.over.append(found))
        self.evaluating.begin()

    def _submit(self, work: Any, then: Any) -> None:
        self.works.append(work)
        self.submitted.append(then)

    def _tell(self, agent: str, message: Any) -> bool:
        assert isinstance(message, Evaluate) and message.key.run == KEY.run
        self.asked.append(agent)
        return True

    def answers(self, agent: str, sums: Sums | None, key: WorkKey = KEY) -> None:
        self.evaluating.on(Heard(agent, Evaluated(key=key, part="test", sums=sums)))

    def fails(self, agent: str, key: WorkKey, kind: str = "error", **more: Any) -> None:
        failed = Failed(key=key, what="evaluate", kind=kind, message="no", **more)
        self.evaluating.on(Heard(agent, failed))

    @property
    def losses(self) -> dict[str, float]:
        """Of each agent that counts, once it is over."""
        ((score, error),) = self.over
        assert error is None
        return {name: m.values["loss"] for name, m in score.beside.items()} if score else {}


def test_it_asks_everybody_and_ends_with_the_last_answer():
    """Answers come in any order."""
    rig = Rig(b=Member(), a=Member())
    assert rig.asked == ["a", "b"]
    rig.answers("b", GOOD)
    assert rig.over == []
    rig.answers("a", POOR)
    assert rig.losses == {"a": 2.0, "b": 0.5}


def test_it_does_not_wait_for_those_who_are_gone_or_late():
    """Their answers are missing, and that is all."""
    rig = Rig(a=Member(), b=Member(), c=Member())
    rig.evaluating.on(Gone("a"))
    rig.evaluating.on(Back("b"))
    rig.evaluating.on(Back("a"))
    assert rig.asked == ["a", "b", "c", "b"], "who is gone is not asked again"
    rig.answers("c", GOOD)
    rig.now = 1029.9
    rig.evaluating.on(Tick())
    assert rig.over == []
    rig.now = 1030.0
    rig.evaluating.on(Tick())
    assert rig.losses == {"c": 0.5}
    assert Rig().losses == {}, "with no agent to ask it ends at once"


def test_one_whose_worker_has_died_and_tries_again_is_waited_for():
    """Its answer counts; only one that has given up is left out."""
    rig = Rig(a=Member(), b=Member())
    rig.fails("a", KEY, retrying=True)
    rig.answers("b", GOOD)
    assert rig.over == []
    rig.answers("a", POOR)
    assert rig.losses == {"a": 2.0, "b": 0.5}


def test_answers_about_another_model_or_from_strangers_do_not_count():
    """Nor does a second answer."""
    rig = Rig(a=Member(), b=Member())
    rig.answers("a", POOR, EARLIER)
    rig.answers("z", POOR)
    rig.answers("a", GOOD)
    rig.answers("a", POOR)
    rig.answers("b", None)
    assert rig.losses == {"a": 0.5}


@pytest.mark.parametrize(
    "change",
    [{"examples": 0}, {"examples": 10**15}, {"counts": {"classes": ((1, 2),)}}, {"counts": {}}],
)
def test_impossible_answers_are_left_out(change, caplog):
    """The agent is not waited for, and the log names it."""
    rig = Rig(a=Member())
    rig.answers("a", msgspec.structs.replace(GOOD, **change))
    assert rig.losses == {} and "agent=a" in caplog.text


def test_an_agent_with_other_classes_does_not_stop_the_run(caplog):
    """Its answer is left out, and the log names it."""
    rig = Rig(a=Member(), b=Member())
    rig.answers("a", from_confusion(9.0, [[1, 0, 0], [0, 1, 0], [0, 0, 1]]))
    rig.answers("b", GOOD)
    assert rig.losses == {"b": 0.5} and "agent=a sent impossible" in caplog.text


def test_a_late_failure_of_an_earlier_round_strikes_nobody_off():
    rig = Rig(a=Member())
    rig.fails("a", EARLIER)
    assert rig.over == []
    rig.fails("a", KEY)
    assert rig.losses == {}


def test_an_agent_with_other_code_of_the_task_measures_nothing():
    assert Rig(a=Member(), b=Member(digest="e" * 64)).asked == ["a"]


def test_an_agent_whose_owner_refuses_is_asked_again_once_it_declares_other_numbers():
    """A refusal is no failure of each round. How many examples there are only the agent knows:
    what it has declared may be of another reading of its data."""
    few, refused = Member(), {}
    rig = Rig(refused=refused, a=Member(), b=few)
    rig.fails("b", KEY, kind="owner")
    rig.answers("a", GOOD)
    assert rig.losses == {"a": 0.5}
    assert Rig(refused=refused, a=Member(), b=few).asked == ["a"]
    few.tests = 101
    assert Rig(refused=refused, a=Member(), b=few).asked == ["a", "b"]


def test_an_agent_that_has_measured_enough_for_this_hour_is_asked_in_the_next_round():
    refused: dict[str, Any] = {}
    rig = Rig(refused=refused, a=Member())
    rig.fails("a", KEY, kind="owner", again_s=60.0)
    assert rig.losses == {} and Rig(refused=refused, a=Member()).asked == ["a"]


def test_after_a_stop_no_agent_is_asked():
    """Also when the coordinator finds only then that it has no test data of its own."""
    rig = Rig("auto", a=Member())
    rig.evaluating.close()
    (then,) = rig.submitted
    then({}, None)
    assert (rig.asked, rig.over) == ([], [])


@pytest.mark.parametrize(("done", "asked"), [(28, []), (29, ["a", "b"])])
def test_in_the_last_round_each_agent_measures_its_own_part_too(done, asked):
    """The coordinator's figures count; those of each agent stand beside them, by name."""
    rig = Rig("auto", done, a=Member(), b=Member())
    rig.submitted[0]({"later": GOOD}, None)
    assert rig.asked == asked
    for agent, sums in zip(asked, (POOR, GOOD), strict=False):
        rig.answers(agent, sums)
    ((score, error),) = rig.over
    assert error is None and score.source == "coordinator" and score.values["loss"] == 0.5
    assert {agent: own.values["loss"] for agent, own in score.own.items()} == (
        {"a": 2.0, "b": 0.5} if asked else {}
    )
    assert score.by_agent == score.own


def test_figures_of_torchmetrics_are_computed_by_the_worker():
    """Of the states of all agents, merged, and of each; the coordinator's own thread goes on."""
    measures = Measures(
        metrics=(*DEFAULT_METRICS, Metric("mcc")), primary="mcc", classes=2, states={"mcc": 1}
    )
    rig = Rig(measures=measures, a=Member(), b=Member())
    for agent, state in (("a", 0.25), ("b", 0.5)):
        rig.answers(agent, msgspec.structs.replace(GOOD, states={"mcc": (state,)}))
    assert not rig.over
    (work,), (then,) = rig.works, rig.submitted
    then(work(), None)
    ((score, error),) = rig.over
    assert error is None and score.values["mcc"] == 0.75
    assert {agent: own.values["mcc"] for agent, own in score.beside.items()} == {
        "a": 0.25,
        "b": 0.5,
    }
