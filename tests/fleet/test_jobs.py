"""--jobs J: processes share the work of a virtual run, and nothing else is different."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from real_fleet import wait_for
from torch import nn

from flctl.coordinator.store.folder import RunFolder, all_runs
from flctl.core.events import RoundCommitted, UpdateStored
from flctl.core.history import History
from flctl.core.stream import BatchTrained, Published
from flctl.errors import SettingsError
from flctl.fleet.replay import replay
from flctl.fleet.virtual import VirtualRun
from flctl.learning.classification import Classification
from flctl.learning.examples import Examples
from flctl.learning.task import Task
from flctl.settings import parse


class Noisy(Classification):
    """Draws in the model, and in what it is given."""

    name = "noisy"
    classes = ("a", "b")
    defaults = {"batch_size": 8, "lr": 0.1, "test_batch_size": 10}  # noqa: RUF012

    def model(self) -> nn.Module:
        return nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 8), nn.Dropout(0.3), nn.Linear(8, 2))

    def inputs(self, x: torch.Tensor, *, training: bool) -> torch.Tensor:
        return x + torch.randn(x.shape) if training else x

    def train_data(self, path: Path | None) -> Examples:
        return some(1, 160)

    def held_out(self, path: Path | None) -> Examples:
        return some(2, 57)


class Deadly(Noisy):
    """Ends its process once, or as long as a file is there."""

    def inputs(self, x: torch.Tensor, *, training: bool) -> torch.Tensor:
        fuse = Path(os.environ["FUSE"])
        if training and fuse.exists():
            if fuse.read_text() == "once":
                fuse.unlink()
            if fuse.name == "bad":
                raise ValueError("a bad batch")
            os.kill(os.getpid(), signal.SIGKILL)
        return super().inputs(x, training=training)


def some(seed: int, count: int) -> Examples:
    draw = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 2, (count,), generator=draw)
    return Examples(torch.randn((count, 3), generator=draw) + y[:, None], y, classes=2)


def start(
    state: Path,
    publish: Callable[[Published], None] = lambda _: None,
    task: type[Task] = Noisy,
    **given: Any,
) -> VirtualRun:
    wanted = {"task": f"{__name__}:{task.__name__}", "virtual": 5, "rounds": 3, "seed": 4, **given}
    return VirtualRun.start(state, wanted, "the test", publish)


def outcome(history: History) -> list[Any]:
    return [(event.model, event.metrics) for event in history.rounds]


def no_children() -> bool:
    return not [p for p in psutil.Process().children() if p.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"compression": "topk", "strategy": "fedadam", "partition": "dirichlet"},
        {"evaluate": "agents", "fraction": 0.5, "compression": "int8"},
    ],
)
def test_the_bytes_and_figures_are_the_same(tmp_path: Path, given: dict[str, Any]):
    """Whatever their number, also where there are more of them than clients; so is the replay."""
    runs = {jobs: start(tmp_path / str(jobs), jobs=jobs, **given) for jobs in (1, 2, 7)}
    found = {jobs: outcome(run.run()) for jobs, run in runs.items()}
    assert len(found[1]) == 3
    assert found[2] == found[7] == found[1]
    assert all(row.same for row in replay(runs[7].folder, {}))
    assert no_children()


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_is_held_out_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: int):
    """However many clients are measured on it."""
    read: list[Path | None] = []

    def held_out(self: Noisy, path: Path | None) -> Examples:
        read.append(path)
        return some(2, 57)

    monkeypatch.setattr(Noisy, "held_out", held_out)
    run = start(tmp_path, jobs=jobs, evaluate="agents", virtual=20, rounds=2)
    read.clear()
    assert run.run().rounds[-1].metrics is not None
    assert len(read) == 1


def test_updates_come_in_the_order_of_the_names(tmp_path: Path):
    told: list[Published] = []
    start(tmp_path, told.append, jobs=3, rounds=1).run()
    names = [one.event.agent for one in told if isinstance(one.event, UpdateStored)]
    assert names == [f"pi-{number:02d}" for number in range(1, 6)]
    assert any(isinstance(one.event, BatchTrained) for one in told)


def test_a_killed_process_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fuse = tmp_path / "fuse"
    monkeypatch.setenv("FUSE", str(fuse))
    plain = outcome(start(tmp_path / "plain", task=Deadly, rounds=2).run())
    fuse.write_text("once")
    assert outcome(start(tmp_path / "killed", task=Deadly, rounds=2, jobs=2).run()) == plain


def test_one_that_is_killed_each_time_pauses_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    fuse = tmp_path / "fuse"
    monkeypatch.setenv("FUSE", str(fuse))
    fuse.write_text("always")
    run = start(tmp_path / "state", task=Deadly, jobs=2)
    history = run.run()
    assert history.state == "paused"
    assert history.reason.startswith("training pi-0") and "killed by SIGKILL" in history.reason
    assert no_children()
    fuse.unlink()
    again = VirtualRun(run.folder, changes={"jobs": 1}).run()
    assert outcome(again) == outcome(start(tmp_path / "plain", task=Deadly).run())


def test_what_a_task_does_wrong_reads_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FUSE", str(tmp_path / "bad"))
    (tmp_path / "bad").write_text("always")
    reasons = {start(tmp_path / str(jobs), task=Deadly, jobs=jobs).run().reason for jobs in (1, 2)}
    (reason,) = reasons
    assert "task 'noisy', inputs: ValueError: a bad batch" in reason


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path):
    """And the run goes on to the same bytes."""

    def stop(told: Published) -> None:
        if isinstance(told.event, UpdateStored) and told.event.round == 2:
            raise KeyboardInterrupt

    run = start(tmp_path / "state", stop, jobs=2)
    with pytest.raises(KeyboardInterrupt):
        run.run()
    assert no_children()
    again = VirtualRun(run.folder, changes={"jobs": 3}).run()
    assert (again.state, outcome(again)) == ("finished", outcome(start(tmp_path / "p").run()))


def test_kill_9_of_the_run_ends_its_processes(tmp_path: Path):
    """Its folder is free at once, and it goes on to the same bytes."""
    code = (
        "import sys, pathlib\n"
        f"sys.path[:0] = {[str(folder) for folder in Path(__file__).parents[:2]]!r}\n"
        "from flctl.fleet.virtual import VirtualRun\n"
        "given = {'task': 'test_jobs:Noisy', 'virtual': 5, 'rounds': 9999, 'seed': 4, 'jobs': 2}\n"
        "VirtualRun.start(pathlib.Path(sys.argv[1]), given, 'the test').run()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, tmp_path / "state"])
    own = psutil.Process(process.pid)
    found = wait_for(lambda: next(iter(list_runs(tmp_path / "state")), None), "the run")
    wait_for(lambda: len(found.history(lean=True).rounds) >= 2, "two rounds")
    children = own.children()
    process.kill()
    process.wait()
    assert len(children) == 2
    assert not psutil.wait_procs(children, timeout=10)[1]

    def two_more(told: Published) -> None:
        if isinstance(told.event, RoundCommitted) and told.event.round > before + 1:
            raise KeyboardInterrupt

    before = found.history(lean=True).round
    sys.path.insert(0, str(Path(__file__).parent))
    try:
        with pytest.raises(KeyboardInterrupt):
            VirtualRun(found, two_more).run()
        with pytest.raises(KeyboardInterrupt):
            start(tmp_path / "plain", two_more, rounds=9999).run()
    finally:
        sys.path.remove(str(Path(__file__).parent))
    (plain,) = all_runs(tmp_path / "plain")
    assert outcome(found.history()) == outcome(plain.history())


def list_runs(state: Path) -> list[RunFolder]:
    return list(all_runs(state)) if state.is_dir() else []


def test_a_process_that_has_trained_before_can_be_forked(tmp_path: Path):
    """As in a notebook: with threads of its own, and gradients."""
    code = (
        "import sys, pathlib, torch\n"
        "torch.set_num_threads(2)\n"
        "w = torch.randn(600, 600, requires_grad=True)\n"
        "for _ in range(3): (w @ w).relu().sum().backward()\n"
        "import flctl\n"
        "run = flctl.train(task='ecg', virtual=16, fraction=0.2, rounds=2, epochs=1, jobs=2,\n"
        "                  state=sys.argv[1]).wait()\n"
        "assert run.ended == 'finished'\n"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path], check=True)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"local": 2, "jobs": 2}, "jobs requires virtual"),
        ({"virtual": 2, "jobs": 2, "threads": 2}, "every process has one thread"),
        ({"virtual": 2, "jobs": -1}, "jobs: must be a whole number >= 0"),
    ],
)
def test_what_does_not_fit_is_refused(given: dict[str, Any], says: str):
    with pytest.raises(SettingsError, match=says):
        parse({"task": "ecg", **given}, "the test")
