"""What a simulated round leaves on the disk; after any end it goes on to the same bytes."""

import contextlib
import errno
import resource
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from test_jobs import Noisy, outcome, start

from flctl.coordinator.store.folder import RunFolder, all_runs
from flctl.coordinator.store.journal import Journal, read_events
from flctl.core.events import RoundCommitted, UpdateStored
from flctl.core.stream import Published
from flctl.errors import StateError
from flctl.fleet import commits, spool, virtual
from flctl.fleet.replay import replay
from flctl.fleet.virtual import VirtualRun
from flctl.learning.examples import Examples

TOPK: dict[str, Any] = {"compression": "topk", "strategy": "fedadam"}


def done(run: VirtualRun) -> list[Any]:
    """As its journal has it, with all figures of each round."""
    run.run()
    return outcome(run.folder.history())


def folder_in(state: Path) -> RunFolder:
    (found,) = all_runs(state)
    return found


@pytest.mark.parametrize("given", [{}, TOPK, {"jobs": 2}])
@pytest.mark.parametrize("long_s", [spool.LONG_S, 0.0])
def test_killed_at_every_append_and_sync_it_makes_the_same_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], long_s: float
):
    """Whether its updates are in memory or in files."""
    monkeypatch.setattr(spool, "LONG_S", long_s)
    monkeypatch.setattr(commits, "APPEND_S", 0.0)
    copies: list[Path] = []
    one_copies = threading.Lock()  # lines are appended by one thread, and synced by another

    def copied(patch: pytest.MonkeyPatch, method: str) -> None:
        plain = getattr(Journal, method)

        def and_copy(self: Journal, *args: Any, **named: Any) -> None:
            plain(self, *args, **named)
            # The next round trains during a sync: what it renames or removes is not in the copy.
            with one_copies, contextlib.suppress(shutil.Error):
                copies.append(tmp_path / f"copy-{len(copies)}")
                shutil.copytree(tmp_path / "state", copies[-1])

        patch.setattr(Journal, method, and_copy)

    run = start(tmp_path / "state", rounds=2, virtual=3, **given)
    with monkeypatch.context() as patch:
        copied(patch, "append")
        copied(patch, "sync")
        expected = done(run)
    assert len(copies) > 8 and len(expected) == 2
    for copy in copies:
        found = folder_in(copy)
        if found.history().state == "running":
            VirtualRun(found).run()
        assert outcome(found.history()) == expected


@pytest.mark.parametrize("keep", [0, 1, 3])
def test_a_power_cut_that_takes_a_model_but_not_its_line_costs_that_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: int
):
    """The model before it stays until the round is durable."""
    plain, taken = commits._sync, []

    def cut(files: Sequence[Path]) -> None:
        if files[0].parent.name == "0002":
            # The next round trains meanwhile: what it renames or removes is not in the copy.
            with contextlib.suppress(shutil.Error):
                shutil.copytree(tmp_path / "state", tmp_path / "cut")
            lost = folder_in(tmp_path / "cut").model_path(2)
            lost.write_bytes(lost.read_bytes()[:100])
            taken.append(lost)
        plain(files)

    run = start(tmp_path / "state", keep_rounds=keep)
    with monkeypatch.context() as patch:
        patch.setattr(commits, "_sync", cut)
        expected = done(run)
    assert taken
    assert run.folder.model_path(2).exists() == (keep != 1)
    found = folder_in(tmp_path / "cut")
    history = VirtualRun(found).run()
    assert (history.state, outcome(found.history())) == ("finished", expected)


def test_what_topk_has_not_sent_is_durable_before_the_rounds_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """It could not be made again."""
    lines: list[int] = []
    plain = commits._sync

    def look(files: Sequence[Path]) -> None:
        plain(files)
        assert [path for path in files if path.parent.parent.name == "residuals"]
        lines.append(folder_in(tmp_path).history().round)

    monkeypatch.setattr(commits, "_sync", look)
    start(tmp_path, **TOPK).run()
    assert lines == [0, 1, 2]


def test_a_disk_that_fails_pauses_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(files: Sequence[Path]) -> None:
        if files[0].parent.name == "0002":
            raise StateError(f"{files[0]}: cannot make it durable: {errno.ENOSPC}")

    with monkeypatch.context() as failing:
        failing.setattr(commits, "_sync", full)
        run = start(tmp_path / "state")
        history = run.run()
    assert history.state == "paused" and "cannot make it durable" in history.reason
    VirtualRun(run.folder).run()
    assert outcome(run.folder.history()) == done(start(tmp_path / "plain"))


def test_more_updates_than_fit_into_memory_get_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """And nothing of them is left."""
    files: list[str] = []

    def look(told: Published) -> None:
        if isinstance(told.event, UpdateStored):
            files.extend(path.name for path in run.folder.spool_path(told.event.round).glob("*"))

    monkeypatch.setattr(commits, "APPEND_S", 0.0)
    monkeypatch.setattr(spool, "MEMORY", 1000)
    run = start(tmp_path / "few", look)
    found = outcome(run.run())
    assert "pi-01.safetensors" not in files and "pi-05.safetensors" in files
    assert not list(run.folder.rounds_path.glob("*/updates"))
    monkeypatch.undo()
    assert found == outcome(start(tmp_path / "all").run())
    assert all(row.same for row in replay(run.folder, {}))


def test_a_round_may_have_more_updates_than_files_may_be_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Those in memory take none; for the others the limit is raised as far as it goes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = len(list(Path("/proc/self/fd").iterdir())) + 30
    try:
        for memory in (spool.MEMORY, 0):
            monkeypatch.setattr(spool, "MEMORY", memory)
            resource.setrlimit(resource.RLIMIT_NOFILE, (few, hard))
            run = start(tmp_path / str(memory), virtual=50, rounds=1)
            assert run.run().state == "finished"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_events_come_in_the_journals_order_with_its_numbers(tmp_path: Path):
    """A round's line is told before it is durable, and so without the chain's head."""
    told: list[Published] = []
    run = start(tmp_path, told.append)
    run.run()
    numbered = [one for one in told if one.seq is not None]
    assert [one.event for one in numbered] == read_events(run.folder.journal_path)[1:]
    assert [one.seq for one in numbered] == [*range(1, len(numbered) + 1)]
    assert all(not one.head for one in told if isinstance(one.event, RoundCommitted))
    assert told[-1].head


@pytest.mark.parametrize("jobs", [1, 2])
def test_data_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: int):
    read: list[str] = []
    for method in ("train_data", "held_out"):
        plain = getattr(Noisy, method)

        def noted(
            self: Noisy, path: Path | None, plain: Any = plain, method: str = method
        ) -> Examples:
            read.append(method)
            found: Examples = plain(self, path)
            return found

        monkeypatch.setattr(Noisy, method, noted)
    start(tmp_path, jobs=jobs, evaluate="coordinator").run()
    assert sorted(read) == ["held_out", "train_data"]


def test_agents_whose_own_figures_would_stand_nowhere_are_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(virtual, "AGENTS", 2)
    score = start(tmp_path).run().rounds[-1].metrics
    assert score is not None and score.source == "coordinator"
    assert [*score.own] == ["pi-01", "pi-02"]
