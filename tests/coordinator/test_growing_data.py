"""Data that become more or fewer during a run of the whole fleet."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from memory_fleet import MemoryFleet, ToyAgent

from flctl.worker.jobs import Describe, Described, EvaluateJob, JobFailed, TrainJob


@pytest.fixture
def fleet() -> Iterator[MemoryFleet]:
    made = MemoryFleet()
    yield made
    made.close()


def after(fleet: MemoryFleet, round_id: int, change: Callable[[], object]) -> None:
    """`change` something once the round is committed."""
    fleet.until(lambda: any(event["round"] == round_id for event in fleet.named("round")))
    change()


def examples(fleet: MemoryFleet, agent: str) -> list[int | None]:
    found = [event.participants.get(agent) for event in fleet.history().rounds]
    return [None if part is None else part.examples for part in found]


def set_examples(agent: ToyAgent, count: int) -> Callable[[], None]:
    def change() -> None:
        agent.examples = count

    return change


def without_data(agent: ToyAgent) -> None:
    """Its folder is emptied: whoever reads it fails."""
    agent.examples = 0

    def do(job: Any, _: Any) -> Any:
        if isinstance(job, Describe):
            return Described(datasets=(), torch="2", cuda=False, error="no files"), None
        assert isinstance(job, TrainJob | EvaluateJob)
        return JobFailed(kind="data", message="no files"), None

    agent.do = do  # type: ignore[method-assign]


def test_a_run_goes_on_with_more_and_with_fewer_examples(fleet: MemoryFleet) -> None:
    """Each round weighs by what there was; no update is refused, no attempt lost."""
    agent = fleet.agents["pi-02"]
    fleet.start_run(rounds=6)
    after(fleet, 1, set_examples(agent, 30))
    after(fleet, 3, set_examples(agent, 5))
    history = fleet.finish()
    assert history.state == "finished"
    counts = examples(fleet, "pi-02")
    assert set(counts) == {10, 30, 5} and counts[0] == 10 and counts[-1] == 5
    assert not fleet.named("rejected") and not fleet.named("attempt")
    assert fleet.status("pi-02")["datasets"][0]["examples"] == 5


def test_agents_measure_on_more_than_they_held_out_before(fleet: MemoryFleet) -> None:
    """Their figures count what there is by now."""
    fleet.evaluator.tests = {}
    for agent in fleet.agents.values():
        agent.held_out = 10
    for agent in list(fleet.agents.values()):
        agent.kill()
        agent.start()
    fleet.start_run(rounds=3, evaluate="agents")

    def grow() -> None:
        fleet.agents["pi-02"].held_out = 25

    after(fleet, 1, grow)
    scores = [event.metrics for event in fleet.finish().rounds]
    assert [score.examples for score in scores if score is not None] == [30, 45, 45]
