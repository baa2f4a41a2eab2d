"""What the owner of an agent is told about data and tasks that do not fit."""

from pathlib import Path

import pytest

from flctl.agent.config import AgentConfig
from flctl.agent.datasets import Datasets
from flctl.learning.mnist import Mnist
from flctl.wire.messages import DatasetInfo
from flctl.worker.execution import Executor
from flctl.worker.jobs import DataSource, Describe, Described

BROKEN = "data set 'default' with task own: task 'own', train_data: KeyError: 'x'"
FOUND = Described(
    datasets=(DatasetInfo(name="default", task="ecg", examples=5),),
    torch="2",
    cuda=False,
    problems=(BROKEN,),
)


@pytest.mark.parametrize(("named", "error"), [(("ecg", "own"), BROKEN), ((), None)])
def test_a_task_that_was_named_and_cannot_be_used_is_an_error(named, error) -> None:
    """Beside one that can; of those that are merely installed nobody expects it."""
    config = AgentConfig(coordinator="h:1", server_key="0" * 40, state=Path("/x"), tasks=named)
    data = Datasets(config, ("ecg", "own"))
    data.on_described(FOUND)
    assert data.found is not None and data.found.error == error
    assert data.usable == {("default", "ecg")}


def test_a_broken_file_is_told_of_once(tmp_path: Path) -> None:
    """By the task that reads such files; by every task only when none does."""
    broken, other = tmp_path / "nan.npz", tmp_path / "odd.txt"
    broken.write_text("no zip")
    other.write_text("odd")
    tasks = ("ecg", "mnist")
    for file, told in ((broken, ["ecg"]), (other, ["ecg", "mnist"])):
        sources = {"default": DataSource(path=str(file))}
        found = Executor().describe(Describe(tasks=tasks, datasets=sources))
        assert found.error is not None
        assert [task for task in tasks if f"with task {task}: {file}" in found.error] == told


@pytest.mark.parametrize(("named", "download"), [((), False), (("mnist",), True)])
def test_only_a_named_task_may_download_its_data(named, download) -> None:
    """What is merely installed fetches nothing when an agent starts."""
    config = AgentConfig(coordinator="h:1", server_key="0" * 40, state=Path("/x"), tasks=named)
    assert Datasets(config, ("mnist",)).look().download is download


def test_without_a_download_there_are_no_data(tmp_path: Path, monkeypatch) -> None:
    """Unless they were fetched before; the cache is not even made."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    job = Describe(tasks=("mnist",), datasets={"default": DataSource()}, download=False)
    found = Executor().describe(job)
    assert found.error is not None and "--task mnist" in found.error
    assert not (tmp_path / "cache").exists()
    raw = tmp_path / "cache" / "flctl" / "torchvision" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "train-images-idx3-ubyte").touch()
    assert Mnist().is_here()


def test_only_tasks_without_any_data_are_problems(tmp_path: Path) -> None:
    """Several data sets of several tasks need not all fit together."""
    (tmp_path / "odd.txt").write_text("odd")
    sources = {"own": DataSource(), "odd": DataSource(path=str(tmp_path / "odd.txt"))}
    found = Executor().describe(Describe(tasks=("ecg", "no_such:Task"), datasets=sources))
    assert [info.name for info in found.datasets] == ["own"]
    (problem,) = found.problems
    assert problem.startswith("data set 'own' with task no_such:Task: ")


def beats(path: Path, rows: int, cut: int = 0) -> None:
    lines = [",".join(["0.5"] * 187 + [str(row % 3)]) for row in range(rows)]
    text = "\n".join(lines) + "\n"
    path.write_text(text[: len(text) - cut] if cut else text)


@pytest.mark.parametrize("tasks", [("ecg",), ("ecg", "mnist"), ("mnist", "ecg")])
def test_half_a_file_leaves_what_the_worker_has_read(tmp_path: Path, tasks) -> None:
    """Also when it looks at the data with all tasks in between; one that has read nothing yet says
    that they are damaged, and of an empty folder it does not."""
    beats(tmp_path / "a.csv", 30)
    look = Describe(tasks=tasks, datasets={"default": DataSource(path=str(tmp_path))})
    executor = Executor()
    (before,) = executor.describe(look).datasets
    beats(tmp_path / "b.csv", 30, cut=100)
    assert executor.describe(look).datasets == (before,)
    assert executor.describe(look).datasets == (before,) and before.examples
    fresh = Executor().describe(look)
    assert not fresh.datasets and fresh.damaged == (("default", "ecg"),)
    for file in tmp_path.iterdir():
        file.unlink()
    assert Executor().describe(look).damaged == ()
    assert executor.describe(look).damaged == () and not executor.describe(look).datasets
