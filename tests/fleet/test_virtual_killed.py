"""A virtual run whose process was killed right after its last commit."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from flctl.coordinator.store.folder import RunFolder, all_runs
from flctl.core.events import RoundCommitted
from flctl.core.stream import Published
from flctl.digests import has_digest
from flctl.errors import DataError
from flctl.fleet import virtual
from flctl.fleet.virtual import VirtualRun


def test_its_last_model_is_last_after_all(tmp_path: Path):
    """And the best one best, though there is no round left to do."""
    rng = np.random.default_rng(1)
    data = tmp_path / "beats.npz"
    np.savez(data, X=rng.integers(-300, 300, (48, 187)).astype(np.int16), y=np.arange(48) % 3,
             split=np.tile([0, 0, 0, 1], 12))  # fmt: skip
    given = {"task": "ecg", "virtual": 2, "rounds": 2, "epochs": 1, "data": str(data),
             "partition": "iid"}  # fmt: skip
    killed = tmp_path / "killed" / "runs"

    def watch(told: Published) -> None:
        if (
            isinstance(told.event, RoundCommitted) and told.event.round == 2
        ):  # the journal has it already
            shutil.copytree(made.folder.path.parent, killed)

    made = VirtualRun.start(tmp_path / "state", given, "the test", watch)
    made.run()
    folder = RunFolder(killed / made.folder.name)
    for name in ("best.safetensors", "last.safetensors"):
        (folder.path / name).unlink()
    VirtualRun(folder).run()
    history = folder.history()
    assert history.state == "finished" and history.best is not None
    assert has_digest(folder.path / "last.safetensors", history.base)
    assert has_digest(folder.path / "best.safetensors", history.best.model)
    assert not list(folder.rounds_path.glob("*/updates"))


def test_a_run_that_cannot_be_taken_up_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its lock and its journal are free for whoever mends what was wrong."""
    data = tmp_path / "beats.npz"
    np.savez(data, X=np.zeros((16, 187), np.int16), y=np.arange(16) % 2)
    given = {"task": "ecg", "virtual": 2, "rounds": 1, "data": str(data), "partition": "iid"}

    def unreadable(*_: object) -> None:
        raise DataError("beats.npz: damaged")

    with monkeypatch.context() as damaged, pytest.raises(DataError) as kept:
        damaged.setattr(virtual, "Clients", unreadable)
        VirtualRun.start(tmp_path / "state", given, "the test")
    assert kept.tb is not None  # and with it all that its frames hold
    (folder,) = all_runs(tmp_path / "state")
    open_files = {os.path.realpath(path) for path in Path("/proc/self/fd").iterdir()}
    assert not [path for path in open_files if path.startswith(str(folder.path))]
    assert VirtualRun(folder).run().state == "finished"
