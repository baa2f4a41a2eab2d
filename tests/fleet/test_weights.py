"""How much an agent weighs whose part of a round ends early: as much as it has data."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flctl.coordinator.run.decisions import jumps
from flctl.core.history import History
from flctl.fleet.driving import drive_local
from flctl.fleet.replay import replay
from flctl.fleet.virtual import VirtualRun
from flctl.learning import training

AGENTS = 3


@pytest.fixture
def given(tmp_path: Path) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    path = tmp_path / "beats.npz"
    np.savez(
        path,
        X=rng.integers(-300, 300, (120, 187)).astype(np.int16),
        y=np.arange(120) % 3,
        split=np.tile([0, 0, 0, 1], 30),
    )
    return {"task": "ecg", "rounds": 2, "epochs": 1, "data": str(path), "batch_size": 4,
            "partition": "size", "federate_after_n_batches": 2}  # fmt: skip


def run(state: Path, given: dict[str, Any]) -> VirtualRun:
    made = VirtualRun.start(state, {**given, "virtual": AGENTS}, "the test")
    assert made.run().state == "finished"
    return made


def test_they_weigh_by_what_they_have(tmp_path: Path, given: dict[str, Any]):
    """In one process, over sockets and computed again: the same counts, the same bytes."""
    made = run(tmp_path / "virtual", given)
    owned = {name: len(examples) for name, examples in made._clients.training.items()}
    assert len(set(owned.values())) == AGENTS
    for event in made.folder.history().rounds:
        assert {a: part.examples for a, part in event.participants.items()} == owned
        assert {part.batches for part in event.participants.values()} == {2}
    assert all(row.same for row in replay(made.folder, {}))
    local = drive_local(tmp_path / "local", {**given, "local": AGENTS}, "the test", lambda _: None)
    assert local.state == "finished" and local.checkpoint is not None
    assert local.checkpoint.read_bytes() == made.folder.model_path(2).read_bytes()


def test_runs_of_version_0_1_are_computed_again_as_they_were(
    tmp_path: Path, given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    """They counted what was touched: the journal says so."""

    def touched(seen: np.ndarray, asked: object) -> int:
        return int(np.count_nonzero(seen))

    with monkeypatch.context() as patched:
        patched.setattr(training, "_weight", touched)
        made = run(tmp_path / "old", given)
    rows = replay(made.folder, {})
    assert len(rows) == 3 and all(row.same for row in rows)


def test_a_count_that_jumps_is_named():
    """Against its round before, even if it has sat some out; twice as many pass."""
    history = History()
    assert jumps({"pi-01": 2**53}, history) == {}
    history.weights = {"pi-01": 100, "pi-02": 100}
    found = jumps({"pi-01": 2**53, "pi-02": 200, "pi-03": 10**9}, history)
    assert found == {"pi-01": f"claims {2**53} examples, 100 in its round before"}
