"""One evaluation on the agents: whom it asks, and what it does with late answers."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from flctl.coordinator.run.evaluating import Evaluating
from flctl.core.metrics import USUAL
from flctl.settings import parse
from flctl.wire.messages import Evaluate, Measures, WorkKey

TASK = "t" * 64
MEASURES = Measures(metrics=USUAL, primary="loss", classes=5)
KEY = WorkKey(run="ecg-1", version=2, base="b" * 64)
EARLIER = WorkKey(run="ecg-1", version=1, base="a" * 64)


class Member:
    def __init__(self, name: str, digest: str = TASK) -> None:
        self.name = name
        self.hello = SimpleNamespace(role="train", tasks={"ecg": digest})

    def of_part(self, task: str, dataset: str, part: str) -> int:
        return 5


class Rig:
    """An evaluation by `agents`, all of whom are here."""

    def __init__(self, *agents: Member, evaluate: str = "agents") -> None:
        self.asked: list[str] = []
        self.over: list[Any] = []
        self.submitted: list[Any] = []
        members = {member.name: member for member in agents}
        roster = SimpleNamespace(members=members, is_free=lambda name: True)
        fleet = SimpleNamespace(roster=roster, serve=lambda *_: None, tell=self._tell, gate=None)
        context: Any = SimpleNamespace(
            settings=parse({"task": "ecg", "evaluate": evaluate}, "the test"),
            started=SimpleNamespace(task_digest=TASK, measures=MEASURES),
            fleet=fleet,
            clock=lambda: 0.0,
            is_here=lambda name: True,
            thinking=SimpleNamespace(submit=lambda work, then: self.submitted.append(then)),
        )
        made: Any = SimpleNamespace(path=Path("model"), size=9)
        self.evaluating = Evaluating(context, KEY, made, lambda *found: self.over.append(found))
        self.evaluating.begin()

    def _tell(self, agent: str, message: Any) -> bool:
        assert isinstance(message, Evaluate)
        self.asked.append(agent)
        return True


def test_a_late_failure_of_an_earlier_round_strikes_nobody_off():
    rig = Rig(Member("pi-01"))
    rig.evaluating.on_failed("pi-01", EARLIER)
    assert rig.over == []
    rig.evaluating.on_failed("pi-01", KEY)
    assert len(rig.over) == 1


def test_an_agent_with_other_code_of_the_task_measures_nothing():
    rig = Rig(Member("pi-01"), Member("pi-02", digest="e" * 64))
    assert rig.asked == ["pi-01"]


def test_after_a_stop_no_agent_is_asked():
    """Also when the coordinator finds only then that it has no test data of its own."""
    rig = Rig(Member("pi-01"), evaluate="auto")
    rig.evaluating.close()
    (then,) = rig.submitted
    then({}, None)
    assert (rig.asked, rig.over) == ([], [])
