"""A run that goes on with other settings: how it is evaluated, and whom it waits for."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from memory_fleet import MemoryFleet

from flctl.coordinator.run.evaluator import WorkerEvaluator
from flctl.coordinator.store.folder import RunFolder
from flctl.errors import DataError, RunError, SettingsError
from flctl.learning.task import Task
from flctl.settings import RunSettings
from flctl.wire.messages import Sums
from flctl.worker.execution import Executor
from flctl.worker.jobs import AnyEvent, AnyJob, EvaluateJob, Initialise, JobFailed


@pytest.fixture
def fleet() -> Iterator[MemoryFleet]:
    made = MemoryFleet()
    yield made
    made.close()


def test_a_run_goes_on_with_another_evaluation(fleet: MemoryFleet) -> None:
    """It had paused for want of test data; the journal has the change, also for the next start."""
    fleet.evaluator.tests = {}
    run = fleet.start_run(evaluate="coordinator", rounds=4)
    paused = fleet.finish()
    assert paused.state == "paused" and "--evaluate agents" in paused.reason
    folder = RunFolder.find(fleet.state, run)
    assert fleet.coordinator is not None
    fleet.coordinator.runs.resume(folder, {"evaluate": "none", "deadline": 90.0})
    fleet.until(lambda: fleet.history().round == 2)
    fleet.kill_coordinator()
    fleet.start_coordinator()
    history = fleet.finish()
    assert (history.state, history.round) == ("finished", 4), history.reason
    assert history.changed == {"evaluate": "none", "deadline_s": 90.0}
    now, then = folder.settings(history), folder.settings()
    assert (now.evaluate, now.deadline_s) == ("none", 90.0)
    assert (then.evaluate, then.deadline_s) == ("coordinator", 600.0)
    assert all(event.metrics is None for event in history.rounds)


def test_only_every_nth_round_of_a_fleet_is_measured(fleet: MemoryFleet) -> None:
    """And the last one; on agents as on the coordinator's own data."""
    fleet.start_run(evaluate_every=2, rounds=5)
    history = fleet.finish()
    measured = [event.round for event in history.rounds if event.metrics is not None]
    assert (history.state, measured) == ("finished", [2, 4, 5]), history.reason


def test_a_lower_quorum_counts_for_the_round_that_is_open(fleet: MemoryFleet) -> None:
    """One of three is gone: with two required the run goes on."""
    run = fleet.start_run(quorum=1.0, rounds=3, wait_s=5.0, deadline=30.0)
    fleet.until(lambda: len(fleet.named("opened")) == 2)
    fleet.agents["pi-03"].kill()
    assert fleet.finish().state == "paused"
    assert fleet.coordinator is not None
    fleet.coordinator.runs.resume(RunFolder.find(fleet.state, run), {"quorum": 2})
    history = fleet.finish()
    assert (history.state, history.round) == ("finished", 3), history.reason


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"lr": 0.5}, "lr stays what it was when the run began; evaluate, quorum, deadline"),
        ({"rounds": 3}, "rounds stays what it was"),
        ({"evaluate": "all"}, "it is one of auto, coordinator, agents, none"),
        ({"quorm": 2}, "did you mean 'quorum'?"),
        ({"quorum": -1}, "quorum"),
    ],
)
def test_what_its_models_are_computed_from_stays(
    fleet: MemoryFleet, changes: dict[str, Any], says: str
) -> None:
    """The error is one line, and nothing is written."""
    run = fleet.start_run(rounds=2)
    assert fleet.coordinator is not None and fleet.coordinator.training is not None
    fleet.coordinator.training.stop("a test")
    fleet.finish()
    folder = RunFolder.find(fleet.state, run)
    before = folder.journal_path.read_bytes()
    with pytest.raises(SettingsError, match=says):
        fleet.coordinator.runs.resume(folder, changes)
    assert folder.journal_path.read_bytes() == before
    fleet.coordinator.runs.resume(folder)
    with pytest.raises(RunError, match="in progress"):
        fleet.coordinator.runs.resume(folder, {"evaluate": "none"})


class Unreadable:
    """A worker whose task has no data of its own."""

    def __init__(self) -> None:
        self.jobs: list[AnyJob] = []
        self.pid, self.idle_since, self.busy = None, None, False

    def submit(self, job: AnyJob, _: int | None = None) -> None:
        self.jobs.append(job)

    def events(self) -> list[tuple[AnyEvent, int | None]]:
        return [(JobFailed(kind="data", message="own: name a folder"), None)]

    def stop(self) -> None:
        """Nothing to end."""


def test_a_task_without_test_data_of_its_own_is_for_the_agents(tmp_path: Path) -> None:
    """By default they are asked, and the coordinator does not try again after each round; that
    it cannot read what was named is an error."""
    worker = Unreadable()
    evaluator = WorkerEvaluator(worker)  # type: ignore[arg-type]
    model = tmp_path / "model"
    model.touch()

    def found(**given: Any) -> dict[str, Sums]:
        return evaluator.evaluate(model, RunSettings(task="own", **given))

    assert found() == found() == {} and len(worker.jobs) == 1
    for given in ({"evaluate": "coordinator", "test_data": "/x"}, {"test_data": "/x"}):
        with pytest.raises(DataError, match="own: name a folder"):
            found(**given)
    assert all(isinstance(job, EvaluateJob) for job in worker.jobs)


def test_the_coordinator_is_asked_for_figures_only_where_it_has_data(monkeypatch) -> None:
    """It says so before the first round, and not after it."""
    monkeypatch.setattr("flctl.learning.ecg.Ecg.test_parts", Task.test_parts)
    monkeypatch.setattr("flctl.learning.ecg.Ecg.held_out", Task.held_out)
    given = {"task": "ecg", "evaluate": "coordinator"}
    with pytest.raises(DataError, match="no test data in what comes with task 'ecg'"):
        Executor().initialise(Initialise(given=given, where="here"))
    for how in ("auto", "agents", "none"):
        made = Initialise(given={**given, "evaluate": how}, where="here")
        os.close(Executor().initialise(made)[1])
