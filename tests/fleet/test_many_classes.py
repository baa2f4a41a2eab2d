"""A task of a thousand classes: what is measured fits into every message."""

import textwrap
from pathlib import Path
from typing import Any

import msgspec
import pytest

from flctl.coordinator.store.folder import RunFolder
from flctl.core.metrics import BINS, MOST_SCORED
from flctl.errors import TaskError
from flctl.fleet.checking import check_task
from flctl.fleet.driving import drive_local
from flctl.fleet.virtual import VirtualRun
from flctl.wire.framing import HEADER_BYTES
from flctl.wire.messages import MOST_CLASSES, Evaluated, Moments, Sums, WorkKey

TASK = """
import torch
from torch import nn
from flctl.learning.classification import Classification
from flctl.learning.examples import Examples


class Words(Classification):
    name = "words"
    n = {classes}
    classes = tuple(f"w{{i}}" for i in range(n))
    defaults = {{"batch_size": 100, "lr": 0.5, "rounds": 1}}

    def model(self):
        return nn.Sequential(nn.Linear(8, 4), nn.Linear(4, self.n))

    def data(self, seed):
        draw = torch.Generator().manual_seed(seed)
        y = torch.arange(3 * self.n) % self.n
        return Examples(torch.randn((len(y), 8), generator=draw), y, classes=self.n, where="made")

    def train_data(self, path):
        return self.data(1)

    def held_out(self, path):
        return self.data(2)
"""


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A reference to a task with so many classes; agents' processes find it too."""
    name = f"many_{request.param}"
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(TASK.format(classes=request.param)))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return f"{name}:Words"


@pytest.mark.parametrize("task", [250, 1000], indirect=True)
def test_tasks_check_finds_it_fit(task: str):
    """Its trial run is evaluated like any other."""
    wrong = [f"{f.check}: {f.text}" for f in check_task(task, None) if f.verdict == "problem"]
    assert not wrong


@pytest.mark.parametrize("task", [1000], indirect=True)
@pytest.mark.parametrize("evaluate", ["coordinator", "agents"])
def test_its_runs_are_measured(tmp_path: Path, task: str, evaluate: str):
    """Through the pipes of workers and the messages of agents; as one process measures it."""
    given: dict[str, Any] = {"task": task, "rounds": 1, "evaluate": evaluate}
    result = drive_local(tmp_path / "local", {**given, "local": 2}, "test", lambda _: None)
    assert result.state == "finished", result.reason
    (event,) = RunFolder.find(tmp_path / "local", result.run).history().rounds
    made = VirtualRun.start(tmp_path / "virtual", {**given, "virtual": 2}, "test")
    assert made.run().state == "finished", made.history.reason
    (other,) = made.folder.history().rounds
    score = event.metrics
    assert score is not None
    assert msgspec.structs.replace(score, beside={}) == msgspec.structs.replace(
        other.metrics, beside={}
    )
    hits, targets, said = (sum(column) for column in zip(*score.counts["classes"], strict=True))
    assert targets == said == score.examples and hits == round(score.values["accuracy"] * targets)


@pytest.mark.parametrize("task", [MOST_CLASSES + 1], indirect=True)
def test_more_than_fit_are_refused_before_the_first_round(tmp_path: Path, task: str):
    """With the number that fits, and the way out."""
    given = {"task": task, "virtual": 2, "rounds": 1}
    with pytest.raises(
        TaskError, match=r"has 3001 classes; .* 3000 at most; choose --evaluate none"
    ):
        VirtualRun.start(tmp_path, given, "test")
    assert VirtualRun.start(tmp_path, {**given, "evaluate": "none"}, "test").run().round == 1
    found = {f.check: f for f in check_task(task, None)}
    assert found["metrics"].verdict == "note" and "3000 at most" in found["metrics"].text
    assert not [f.text for f in found.values() if f.verdict == "problem"]


def test_the_most_classes_fit_into_a_message():
    """With four thousand million examples of each class."""
    many = 2**32 - 1
    key = WorkKey(run="ecg-1", version=1, base="a" * 64)
    names = [f"m{n:039}" for n in range(16)]
    means = {name: Moments(count=2**53, mean=0.1, m2=0.1) for name in names}
    for table in (((many, many, many),) * MOST_CLASSES, ((many,) * 100,) * 100,
                  ((many,) * BINS,) * 2 * MOST_SCORED):  # fmt: skip
        message = Evaluated(
            key=key,
            part="validation",
            sums=Sums(examples=2**53, means=means, counts={"t": table}),
        )
        assert len(msgspec.msgpack.encode(message)) < HEADER_BYTES - 4096
