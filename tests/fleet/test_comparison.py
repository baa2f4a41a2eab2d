"""What a federated run is compared with."""

import numpy as np
import pytest

from flctl.errors import RunError
from flctl.fleet.comparison import Comparison, beside, compute
from flctl.fleet.virtual import VirtualRun
from flctl.learning.evaluation import measured
from flctl.learning.state import load_into


@pytest.fixture
def given(tmp_path):
    rng = np.random.default_rng(1)
    path = tmp_path / "beats.npz"
    np.savez(
        path,
        X=rng.integers(-300, 300, (96, 187)).astype(np.int16),
        y=np.arange(96) % 3,
        record=np.repeat(["101", "102", "103", "104"], 24),
        split=np.tile([0, 0, 1, 2], 24),
    )
    return {"task": "ecg", "local": 2, "rounds": 4, "epochs": 1, "data": str(path)}


def test_both_ways_are_measured_on_every_part(given):
    """Curves by round on the part that counts; final figures on later beats and unseen patients."""
    central = compute("central", given, every=2)
    alone = compute("local-only", given, every=2, rounds=3)
    assert list(central.curve) == [2, 4]
    assert list(alone.curve) == [2, 3]
    for made in (central, alone):
        assert set(made.final) == {"later", "unseen", "own"}
        for part, found in made.final.items() if made.agents else ():
            each = [own[part].values["ece"] for own in made.agents.values()]
            assert len(each) == 2 and found.values["ece"] == pytest.approx(np.mean(each))
        assert (
            made.final["later"].values["accuracy"] == made.curve[max(made.curve)].values["accuracy"]
        )


def test_agents_are_also_measured_on_what_is_their_own(given, tmp_path):
    """Each by itself, and the mean of them; beside it what always one answer would score."""
    arrays = dict(np.load(given["data"]))
    arrays["y"] = np.where(arrays["split"] == 2, 0, np.arange(96) % 2)
    np.savez(given["data"], **arrays)
    history = VirtualRun.start(tmp_path, {**given, "local": None, "virtual": 2}, "test")
    history.run()
    by = beside(given, history.folder.model_path(4))
    clients, task = history._clients, history.task
    model = task.model()
    with history.folder.model_path(4).open("rb") as file:
        load_into(model, file.fileno(), "model")
    own = {name: measured(task, model, part) for name, part in clients.own("test").items()}
    assert by.own == own and len(own) == 2
    journaled = history.folder.history().rounds[-1].metrics
    assert journaled is not None and journaled.source == "coordinator"
    assert {a: m.values for a, m in journaled.own.items()} == {a: m.values for a, m in own.items()}
    trained = sum(part.histogram() for part in clients.training.values())
    assert by.commonest == task.classes[int(np.argmax(trained))]
    part = by.classes["unseen"]
    assert part == {"N": 24, "S": 0, "V": 0, "F": 0, "Q": 0} and by.groups["unseen"] == 4
    assert by.always["unseen"].values["accuracy"] == part[by.commonest] / 24
    assert set(by.always) == {"later", "unseen", "own"}


def test_what_goes_wrong_is_told(given):
    """A process that fails leaves its last words."""
    with (
        Comparison({**given, "data": "/nonexistent"}) as comparison,
        pytest.raises(RunError, match="/nonexistent"),
    ):
        comparison.result("central")
