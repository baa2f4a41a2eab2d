"""A model for one agent alone: chosen by its validation part, a function of what it depends on."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec.structs import replace

from flctl.core.metrics import LOSS, from_confusion, metrics_of
from flctl.core.randomness import Seeding
from flctl.errors import StateError, TaskError
from flctl.learning import own_models, personal
from flctl.learning.examples import Examples
from flctl.learning.own_models import KEPT, OwnModels, OwnRecord, key_of
from flctl.learning.personal import Data, Way, personalise
from flctl.learning.state import load_state, snapshot
from flctl.learning.task import Task, initial_model
from flctl.settings import LocalTraining
from flctl.wire.messages import Metric

BASE, CODE = "b" * 64, "c" * 64
WAY = Way(
    training=LocalTraining(epochs=4, batch_size=16, lr=0.05),
    tensors=(),
    seeding=Seeding(7, "pi-01", 3, 0, 0),
    batch_size=100,
)


def examples(count: int, seed: int, *, turned: bool = False) -> Examples:
    """Three clouds of points; `turned`: each has another class than elsewhere."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % 3
    x = torch.randn(count, 4, generator=generator) + torch.eye(3, 4)[y] * 3
    return Examples(x, (y + 1) % 3 if turned else y, classes=3, where="points")


@pytest.fixture
def task(blobs: Task) -> Task:
    return blobs


def data(turned: bool = True) -> Data:
    return Data(
        examples(96, 2, turned=turned),
        examples(32, 3, turned=turned),
        examples(40, 4, turned=turned),
    )


@pytest.fixture
def start(task: Task) -> dict[str, torch.Tensor]:
    """What a fleet might have learnt from others."""
    from flctl.learning.training import train_locally

    first = snapshot(initial_model(task, 1))
    training = LocalTraining(epochs=30, batch_size=16, lr=0.05)
    return train_locally(task, first, examples(200, 5), training, Seeding(1, "x", 0, 1, 0)).state


def test_it_is_kept_where_it_beats_the_runs_model_on_validation_data(task: Task, start: Any):
    """Of an agent to whom the classes are others; the figures are those of the two models."""
    outcome, state = personalise(task, start, data(), WAY)
    assert 1 <= outcome.epochs <= 4 and outcome.kept
    assert outcome.shared.keys() == outcome.own.keys() == {"validation", "test"}
    shared, own = (
        metrics_of(sums["test"], task.measures).values["accuracy"]
        for sums in (outcome.shared, outcome.own)
    )
    assert (own, shared) == (pytest.approx(0.8, abs=0.15), pytest.approx(0.1, abs=0.1))
    assert any(not torch.equal(state[name], start[name]) for name in start)


def test_the_same_makes_the_same_bytes_and_another_seed_others(task: Task, start: Any):
    one, again = (personalise(task, start, data(), WAY)[1] for _ in range(2))
    other = personalise(task, start, data(), replace(WAY, seeding=replace(WAY.seeding, seed=8)))[1]
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_one_that_does_worse_is_not_kept_and_test_data_decide_nothing(task: Task, start: Any):
    """Validation data are as elsewhere, what is trained on and tested is not."""
    turned = data()
    odd = Data(turned.training, examples(32, 3), turned.test)
    outcome, state = personalise(task, start, odd, WAY)
    assert (outcome.epochs, outcome.own) == (0, {})
    assert all(torch.equal(state[name], start[name]) for name in start)
    hopeless = replace(WAY, training=replace(WAY.training, lr=1e3))
    try:
        outcome, _ = personalise(task, start, data(turned=False), hopeless)
        assert not outcome.kept
    except TaskError as error:
        assert "loss" in str(error)


def test_without_validation_data_there_is_none(task: Task, start: Any):
    outcome, _ = personalise(task, start, data()._replace(validation=None), WAY)
    assert not outcome.kept and outcome.shared.keys() == {"test"}


def test_only_the_named_tensors_change(task: Task, start: Any):
    outcome, state = personalise(task, start, data(), replace(WAY, tensors=("2.*",)))
    assert outcome.kept
    changed = {name for name in start if not torch.equal(state[name], start[name])}
    assert changed == {"2.weight", "2.bias"}
    with pytest.raises(TaskError, match="matches no parameter"):
        personalise(task, start, data(), replace(WAY, tensors=("head.*",)))


# Where they are kept ---------------------------------------------------------------------------


def stored(folder: Path, task: Task, start: Any, base: str = BASE) -> tuple[OwnRecord, OwnModels]:
    outcome, state = personalise(task, start, data(), WAY)
    key = key_of(base, CODE, data(), WAY)
    models = OwnModels(folder)
    models.keep(OwnRecord(schema=1, base=base, run="r-1", key=key, outcome=outcome), state, {})
    found = models.find(base, key)
    assert found is not None and found.outcome == outcome
    return found, models


def test_it_is_stored_for_this_user_alone_and_found_again(tmp_path: Path, task: Task, start: Any):
    """By the model that it is made of, and by the run."""
    record, models = stored(tmp_path / "own", task, start)
    path = models.model_path(record)
    assert {p.stat().st_mode & 0o777 for p in path.parent.iterdir()} == {0o600}
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert models.newest(BASE) == models.newest(run="r-1") == (record, path)
    assert models.newest("d" * 64) is models.newest(run="x") is None
    with path.open("rb") as file:
        assert load_state(file.fileno(), "own").keys() == start.keys()


@pytest.mark.parametrize("what", ["model", "record"])
def test_a_damaged_one_counts_as_none(tmp_path: Path, task: Task, start: Any, what: str):
    """So that it is made again: the same bytes."""
    record, models = stored(tmp_path, task, start)
    path = models.model_path(record)
    before = path.read_bytes()
    broken = path if what == "model" else path.with_suffix(".json")
    broken.write_bytes(broken.read_bytes()[:-20])
    assert models.find(BASE, record.key) is None and models.newest(BASE) is None
    stored(tmp_path, task, start)
    assert path.read_bytes() == before


def test_other_data_settings_or_code_have_another_key():
    keys = {
        key_of(BASE, CODE, data(), WAY),
        key_of("d" * 64, CODE, data(), WAY),
        key_of(BASE, "d" * 64, data(), WAY),
        key_of(BASE, CODE, data(turned=False), WAY),
        key_of(BASE, CODE, data()._replace(test=None), WAY),
        key_of(BASE, CODE, data(), replace(WAY, tensors=("2.*",))),
        key_of(BASE, CODE, data(), replace(WAY, training=replace(WAY.training, lr=0.1))),
    }
    assert len(keys) == 7 and key_of(BASE, CODE, data(), WAY) in keys


def test_the_newest_few_stay(tmp_path: Path, task: Task, start: Any):
    """And nothing of a model whose record was never written."""
    (tmp_path / "lost.safetensors").write_bytes(b"left by a crash")
    bases = [f"{number:064x}" for number in range(KEPT + 2)]
    for number, base in enumerate(bases):
        record, models = stored(tmp_path, task, start, base[::-1])
        os.utime(models.model_path(record).with_suffix(".json"), (number, number))
    names = {path.suffix for path in tmp_path.iterdir()}
    assert names == {".json", ".safetensors"} and len(list(tmp_path.iterdir())) == 2 * KEPT
    assert models.newest(bases[-1][::-1]) is not None and models.newest(bases[0][::-1]) is None


def test_a_full_card_is_said_in_one_line(tmp_path: Path, task: Task, start: Any, monkeypatch: Any):
    """Before anything is written."""
    monkeypatch.setattr(own_models, "SLACK_BYTES", 2**60)
    with pytest.raises(StateError, match="make room"):
        stored(tmp_path / "own", task, start)
    assert list((tmp_path / "own").iterdir()) == []


def test_of_the_epochs_that_beat_the_runs_model_that_of_least_loss_counts(
    task: Task, start: Any, monkeypatch: Any
):
    """Not the best figure, which one of a few examples decides; and never an epoch that does not
    beat the run's model by its figure, whatever its loss."""
    found = [(5, 1.0), (6, 0.5), (9, 0.8), (4, 0.1), (7, 0.6), (6, 0.5)]
    measured = iter(from_confusion(loss, [[n, 10 - n], [0, 10]]) for n, loss in found)
    monkeypatch.setattr(personal, "evaluate", lambda *_, **__: next(measured))
    monkeypatch.setattr(type(task), "primary", "accuracy")
    monkeypatch.setattr(type(task), "metrics", (LOSS, Metric("accuracy")))
    outcome, _ = personalise(task, start, data()._replace(test=None), WAY)
    assert outcome.epochs == 1
    assert outcome.own["validation"].means["loss"].mean == 0.5
