"""What lies in the folder that a command was started in takes no module's place in its children."""

import re
from pathlib import Path

import pytest
from test_worker_process import run

import flctl
from flctl.learning.fingerprint import elsewhere
from flctl.worker.jobs import DataSource, Describe, Described
from flctl.worker.process import WorkerProcess


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """The current folder has a `queue.py` that leaves a mark: the mark."""
    mark = tmp_path / "ran"
    for name in ("queue.py", "random.py"):
        (tmp_path / name).write_text(f"open({str(mark)!r}, 'w')\nraise SystemExit('planted')\n")
    monkeypatch.chdir(tmp_path)
    return mark


def test_not_in_a_worker(planted):
    worker = WorkerProcess()
    try:
        event, _ = run(worker, Describe(tasks=("ecg",), datasets={"own": DataSource()}))
        assert isinstance(event, Described) and not planted.exists()
    finally:
        worker.stop()


def test_not_in_the_second_process_of_a_check(planted):
    assert elsewhere("ecg", None).classes and not planted.exists()


def test_every_child_is_started_so():
    """`python -P`, wherever this package starts one."""
    root = Path(flctl.__file__).parent
    starts = [
        f"{file.name}: {found[1]}"
        for file in root.rglob("*.py")
        for found in re.finditer(r"sys\.executable, (.{8})", file.read_text())
    ]
    assert len(starts) >= 4
    assert [start for start in starts if '"-P", ' not in start] == []
