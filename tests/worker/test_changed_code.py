"""A task whose file changes under a running process."""

import sys

import pytest

from flctl.coordinator.run.evaluator import WorkerEvaluator
from flctl.core.randomness import Seeding
from flctl.errors import TaskError
from flctl.learning.registry import task_digest
from flctl.learning.task import load_task, loaded_digest
from flctl.settings import parse
from flctl.worker.execution import Executor
from flctl.worker.jobs import DataSource, Initialise, TrainJob

OWN = """
import torch
from torch import nn
from flctl.learning.classification import Classification
from flctl.learning.examples import Examples

class Own(Classification):
    name = "own"
    classes = ("a", "b")
    def model(self):
        return nn.Linear(4, 2)
    def train_data(self, path):
        return Examples(torch.ones(32, 4), torch.arange(32) % 2, classes=2)
"""
REF = "changed_task:Own"
GIVEN = {"task": REF, "rounds": 1}


@pytest.fixture
def file(tmp_path, monkeypatch):
    """The task's file, in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    found = tmp_path / "changed_task.py"
    found.write_text(OWN)
    yield found
    sys.modules.pop("changed_task", None)


def test_the_digest_of_what_is_loaded_is_not_that_of_the_file(file):
    """What a process has imported stays what it is."""
    before = task_digest(REF)
    load_task(REF)
    file.write_text(OWN + "# changed\n")
    load_task(REF)
    assert loaded_digest(REF) == before != task_digest(REF)


def test_other_code_than_the_agent_has_announced_is_not_run(file, tmp_path):
    """A worker that was started after an upgrade says that the agent is to be started again."""
    executor = Executor()
    made, fd = executor.initialise(Initialise(given=GIVEN, where="test"))
    job = {
        "task": REF,
        "source": DataSource(),
        "seeding": Seeding(1, "pi-01", version=0, sequence=1, position=0),
        "training": parse(made.settings, "test").local_training(1),
        "residuals": str(tmp_path),
    }
    assert executor.train(TrainJob(**job, code=made.task_digest), fd, print)[0].claim.examples == 28
    with pytest.raises(TaskError, match=f"task '{REF}': its code has changed since this agent"):
        executor.train(TrainJob(**job, code="0" * 64), fd, print)


def test_a_coordinator_begins_its_next_run_with_the_new_code(file):
    """It need not be started again after an upgrade."""
    evaluator = WorkerEvaluator()
    try:
        first = evaluator.initialise(dict(GIVEN), "test")
        file.write_text(OWN.replace("nn.Linear(4, 2)", "nn.Linear(4, 2, bias=False)"))
        second = evaluator.initialise(dict(GIVEN), "test")
    finally:
        evaluator.close()
    assert second.task_digest == task_digest(REF) != first.task_digest
    assert second.size < first.size
