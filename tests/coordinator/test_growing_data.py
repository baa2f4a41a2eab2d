"""Data that become more or fewer during a run of the whole fleet."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from memory_fleet import MemoryFleet, ToyAgent

from flctl.wire.messages import DatasetInfo
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


def without_data(agent: ToyAgent, damaged: bool = False, others: bool = False) -> None:
    """Its folder is emptied, or a file in it is cut off: whoever reads it fails. It may have
    `others`, which are whole."""
    agent.examples = 0
    whole = (DatasetInfo(name="other", task="toy", examples=9),) if others else ()
    error = None if others else "half a file" if damaged else "no files"
    pairs = (("default", "toy"),) if damaged else ()

    def do(job: Any, _: Any) -> Any:
        if isinstance(job, Describe):
            return Described(
                datasets=whole, torch="2", cuda=False, error=error, damaged=pairs
            ), None
        assert isinstance(job, TrainJob | EvaluateJob)
        return JobFailed(kind="data", message=error or "half a file", damaged=damaged), None

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


def again(agent: ToyAgent) -> Callable[[], None]:
    """There are files again; the agent finds them at its next look."""

    def change() -> None:
        agent.examples = 10
        del agent.do  # type: ignore[method-assign]
        agent.supervisor.work.data._read = None

    return change


@pytest.mark.parametrize("given", [{"quorum": 1.0}, {}, {"agents": ["pi-01", "pi-02", "pi-03"]}])
def test_an_agent_whose_folder_is_emptied_is_left_out(
    fleet: MemoryFleet, given: dict[str, Any]
) -> None:
    """Without a pause of the run or of the round, whatever the quorum: it has nothing to give.
    The record names it, and it takes part again when there is something."""
    agent = fleet.agents["pi-02"]
    fleet.start_run(rounds=400, **given)
    after(fleet, 2, lambda: without_data(agent))
    fleet.until(lambda: fleet.history().round >= 8)
    assert fleet.status("pi-02")["state"] == "no data"
    assert "no files" in fleet.status("pi-02")["last_error"]
    after(fleet, fleet.history().round, again(agent))
    fleet.until(lambda: "pi-02" in fleet.history().rounds[-1].participants, 120.0)
    history = fleet.history()
    took_part = ["pi-02" in event.participants for event in history.rounds]
    assert took_part[:2] == [True, True] and took_part[4:8] == [False] * 4
    assert all(
        event.missing == ("pi-02",) for event in history.rounds if len(event.participants) == 2
    )
    assert not fleet.named("paused")
    seconds = [event.seconds for event in history.rounds]
    assert max(seconds) < 5.0, "no round has waited for it"


def test_with_no_data_left_the_run_pauses_and_goes_on_by_itself(fleet: MemoryFleet) -> None:
    """One sentence names who has none; two with data are the least that it goes on with."""
    first, second = fleet.agents["pi-01"], fleet.agents["pi-02"]
    fleet.start_run(rounds=6, wait_s=10.0)
    after(fleet, 1, lambda: [without_data(first), without_data(second)])
    fleet.until(lambda: bool(fleet.named("paused")))
    reason = fleet.named("paused")[0]["reason"]
    assert "1 of 2 required agents ready" in reason
    assert "pi-01: data: no files" in reason and "pi-02: data: no files" in reason
    again(first)()
    again(second)()
    fleet.until(lambda: fleet.history().state == "finished")


def test_what_was_trained_on_may_be_gone_when_the_update_is_fetched(fleet: MemoryFleet) -> None:
    """An update of more than there is by now still counts: so many were declared."""
    agent = fleet.agents["pi-02"]
    agent.ticks = 20
    fleet.start_run(rounds=2)
    fleet.until(lambda: bool(agent.trained))
    told = agent.do

    def shrinks(job: Any, model: Any) -> Any:
        done = told(job, model)
        agent.examples = 3
        order = agent.supervisor.work._orders[0].message
        agent.supervisor.work.data.declare(order, examples=3)
        agent.supervisor.work._on_described()
        return done

    agent.do = shrinks  # type: ignore[method-assign]
    history = fleet.finish()
    assert history.state == "finished" and not fleet.named("rejected")
    assert examples(fleet, "pi-02")[0] == 10


@pytest.mark.parametrize("others", [False, True])
def test_the_quorum_counts_an_agent_whose_data_are_damaged(
    fleet: MemoryFleet, others: bool
) -> None:
    """They are there, and whole again when somebody has mended them: a run that needs all pauses
    and names it, also where it has other data that are whole."""
    agent = fleet.agents["pi-02"]
    fleet.start_run(rounds=400, quorum=1.0)
    after(fleet, 2, lambda: without_data(agent, damaged=True, others=others))
    fleet.until(lambda: bool(fleet.named("paused")))
    reason = fleet.named("paused")[0]["reason"]
    assert "2 of 3 required agents ready" in reason and "pi-02: " in reason
    assert {event["need"] for event in fleet.named("opened")} == {3}
    paused_at = fleet.history().round
    again(agent)()
    fleet.until(lambda: fleet.history().round > paused_at + 1, 120.0)
    assert all(len(event.participants) == 3 for event in fleet.history().rounds)
