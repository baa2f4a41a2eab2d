"""A round writes its updates over the files of the round before."""

import hashlib
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from memory_fleet import MemoryFleet

from flctl.coordinator.run import round_driver
from flctl.coordinator.run.intake import Downloads
from flctl.coordinator.store import journal as journals
from flctl.coordinator.store.folder import all_runs
from flctl.coordinator.store.journal import Journal
from flctl.core.events import RoundOpened
from flctl.wire.messages import Chunk, Claim, Coded, UpdateReady, WorkKey


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> list[set[int]]:
    """Numbers of the files that each round was aggregated from."""
    seen: list[set[int]] = []
    aggregate = round_driver.aggregate

    def spied(folder: Any, round_id: int, *args: Any) -> Any:
        seen.append({path.stat().st_ino for path in folder.spool_path(round_id).iterdir()})
        return aggregate(folder, round_id, *args)

    monkeypatch.setattr(round_driver, "aggregate", spied)
    return seen


def test_each_round_uses_the_same_files_and_the_last_one_leaves_none(
    fleet: MemoryFleet, files: list[set[int]]
):
    fleet.start_run(rounds=4)
    fleet.finish()
    first = files[0]
    assert len(first) == 3 and files == [first] * 4
    assert not list(fleet.state.rglob("updates"))


def test_a_round_of_fewer_agents_leaves_none_behind(make_fleet, files: list[set[int]]):
    """Files that a round has no use for are gone when it is committed."""
    fleet: MemoryFleet = make_fleet(4)
    fleet.start_run(rounds=3, fraction=0.5, evaluate="none")
    fleet.finish()
    assert [len(found) for found in files] == [2, 2, 2]
    assert not list(fleet.state.rglob("updates"))


def test_a_restarted_coordinator_writes_new_files(fleet: MemoryFleet, files: list[set[int]]):
    """What the one before has left of a committed round is removed at the start."""
    fleet.start_run(rounds=3)
    fleet.until(lambda: fleet.history().round == 1)
    (folder,) = all_runs(fleet.state)
    fleet.kill_coordinator()
    fleet.start_coordinator()
    fleet.until(lambda: fleet.history().round == 2)
    assert not folder.spool_path(1).exists()
    fleet.finish()
    assert not list(fleet.state.rglob("updates"))


class Fetching:
    """One update of an agent, as it comes in."""

    def __init__(self, spool: Path, spares: list[Path]) -> None:
        self.ended: list[tuple[str, str]] = []
        host: Any = SimpleNamespace(tell=lambda *_: True, gate=None)
        ended = lambda agent, why: self.ended.append((agent, why))  # noqa: E731
        self.downloads = Downloads(spool, host, lambda: 0.0, ended, spares)

    def fetch(self, agent: str, data: bytes) -> Path:
        blob = hashlib.sha256(data).hexdigest()
        key = WorkKey(run="r-0101-000000-0000", version=1, base=blob)
        claim = Claim(examples=1, batches=1, loss=0.0, last_loss=0.0, seconds=0.0)
        offer = UpdateReady(key=key, update=Coded(blob=blob, size=len(data)), claim=claim)
        self.downloads.pull(agent, offer)
        self.downloads.on_chunk(agent, Chunk(blob=blob, offset=0), data)
        return self.downloads.take([agent])[agent].path


def test_only_a_file_of_the_same_size_is_written_over(tmp_path: Path):
    """A backup that reads a file finds it as long as it was; one that is gone is no trouble."""
    spares = [tmp_path / name for name in ("long", "gone", "same")]
    spares[0].write_bytes(b"x" * 9)
    spares[2].write_bytes(b"other")
    same = spares[2].stat().st_ino
    fetching = Fetching(tmp_path, spares)
    first, second = fetching.fetch("pi-01", b"bytes"), fetching.fetch("pi-02", b"bytes")
    assert fetching.ended == [("pi-01", ""), ("pi-02", "")]
    assert first.read_bytes() == second.read_bytes() == b"bytes"
    assert first.stat().st_ino == same != second.stat().st_ino
    assert spares[0].read_bytes() == b"x" * 9


def test_nobody_who_appends_waits_for_a_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """And the head is that of what was there when it began."""
    journal = Journal(tmp_path / "journal.jsonl")

    def opened(attempt: int) -> RoundOpened:
        return RoundOpened(
            at=0.0, round=1, attempt=attempt, base="0" * 64, invited=("pi-01",), need=1
        )

    journal.append([opened(1)], sync=False)
    begun, goes_on = threading.Event(), threading.Event()

    def slow(_: int) -> None:
        begun.set()
        assert goes_on.wait(30)

    monkeypatch.setattr(journals.os, "fdatasync", slow)
    syncing = threading.Thread(target=journal.sync)
    syncing.start()
    assert begun.wait(30)
    before = journal.head
    journal.append([opened(2)], sync=False)
    goes_on.set()
    syncing.join()
    middle = journal.head
    journal.sync()
    assert len({before, middle, journal.head}) == 3
    journal.close()
