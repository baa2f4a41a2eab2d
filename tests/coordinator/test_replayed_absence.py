"""A run of agents that really learn, over the in-memory channel: one goes, and comes back."""

import os
from pathlib import Path
from typing import Any, ClassVar

import memory_fleet
import msgspec
import numpy as np
import pytest
from memory_fleet import MemoryFleet, ToyAgent, ToyEvaluator
from test_absence import kill_in_round, until_finished

from flctl.coordinator.store.folder import all_runs
from flctl.coordinator.store.resume import FirstModel
from flctl.fleet.clients import first_model
from flctl.fleet.replay import replay
from flctl.learning.registry import task_digest
from flctl.transport.keypair import KeyPair
from flctl.wire.messages import DatasetInfo
from flctl.wire.parameters import dump
from flctl.worker.execution import Executor
from flctl.worker.jobs import AnyJob, DataSource, Described, TrainJob

NAMES = ("pi-01", "pi-02", "pi-03")


class Beginning(ToyEvaluator):
    def initialise(self, given: dict[str, Any], where: str) -> FirstModel:
        return first_model(given, where)


class Learner(ToyAgent):
    """Trains on beats of its own, as a worker does."""

    tasks: ClassVar[dict[str, str]] = {"ecg": task_digest("ecg")}

    def do(self, job: AnyJob, model: dict[str, np.ndarray]) -> Any:
        if not isinstance(job, TrainJob):
            info = DatasetInfo(name="default", task="ecg", examples=60, held_out=0)
            return Described(datasets=(info,), torch="2", cuda=False), None
        source = DataSource(path=str(beats_of(self.fleet.folder, self.name)))
        fd = os.memfd_create("model")
        dump(fd, {name: ("F32", array) for name, array in model.items()}, {"task": "ecg"})
        try:
            return Executor().train(msgspec.structs.replace(job, source=source), fd, lambda _: None)
        finally:
            os.close(fd)


def beats_of(folder: Path, name: str) -> Path:
    path = folder / f"{name}.npz"
    if not path.exists():
        draw = np.random.default_rng(int(name[-2:]))
        x, y = draw.integers(-300, 300, (60, 187)), np.arange(60) % 3
        np.savez(path, X=x.astype(np.int16), y=y, split=np.zeros(60, np.int64))
    return path


@pytest.mark.parametrize("compression", ["none", "topk"])
def test_a_replay_agrees_where_an_agent_was_away(compression: str, monkeypatch: pytest.MonkeyPatch):
    """Killed in the second round of six, back for the sixth: the same bytes from copies of the
    data, with what top-k has not sent as well; with other data the first such round is named."""
    monkeypatch.setattr(memory_fleet, "ToyEvaluator", Beginning)
    fleet = MemoryFleet(0)
    try:
        for name in NAMES:
            keys = KeyPair.make()
            fleet.keyring.add(name, keys.public, "agent")
            fleet.agents[name] = Learner(fleet, name, keys=keys)
        fleet.start_run(task="ecg", rounds=6, quorum=0.6, epochs=1, batch_size=16,
                        evaluate="none", compression=compression)  # fmt: skip
        kill_in_round(fleet, 2, "pi-02")
        fleet.until(lambda: len(fleet.named("round")) == 4)
        fleet.agents["pi-02"].start()
        rounds = until_finished(fleet).rounds
        assert ["pi-02" in each.participants for each in rounds] == [1, 0, 0, 0, 0, 1]
        (folder,) = all_runs(fleet.state)
        sources = {name: beats_of(fleet.folder, name) for name in NAMES}
        rows = replay(folder, sources)
        assert len(rows) == 7
        assert all(row.same for row in rows)
        last = replay(folder, {**sources, "pi-02": sources["pi-01"]})[-1]
        assert (last.round, last.replayed) == (1, None)
        assert "the data of pi-02 in this round are missing" in last.why
    finally:
        fleet.close()
