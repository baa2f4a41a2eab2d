"""Runs that begin with a model that is there: a run's, or a file."""

import json

import numpy as np
import pytest
import torch

import flctl as public
from flctl.coordinator.store.folder import RunFolder
from flctl.errors import DataError, UsageError
from flctl.fleet.replay import replay
from flctl.fleet.virtual import VirtualRun
from flctl.learning.state import load_state


@pytest.fixture
def given(tmp_path):
    rng = np.random.default_rng(1)
    np.savez(
        tmp_path / "beats.npz",
        X=rng.integers(-300, 300, (64, 187)).astype(np.int16),
        y=np.arange(64) % 3,
        record=np.repeat(["101", "102"], 32),
        split=np.tile([0, 0, 0, 1], 16),
    )
    return {
        "task": "ecg", "virtual": 2, "rounds": 1, "epochs": 1, "batch_size": 16,
        "data": str(tmp_path / "beats.npz"),
    }  # fmt: skip


def run(state, given, **more) -> RunFolder:
    made = VirtualRun.start(state, {**given, **more}, "the test")
    assert made.run().state == "finished"
    return made.folder


def tensors(path):
    with path.open("rb") as file:
        return load_state(file.fileno(), str(path))


def test_it_begins_with_the_last_model_of_a_run(given, tmp_path):
    """By the run's name; the journal says from which, and a replay begins there, though the
    earlier run is gone and the first model is older than those that are kept."""
    before = run(tmp_path, given)
    after = run(tmp_path, given, **{"from": before.name}, rounds=4, keep_rounds=2)
    first, last = after.path / "begun.safetensors", before.model_path(1)
    old, new = tensors(last), tensors(first)
    assert old.keys() == new.keys() and all(torch.equal(old[n], new[n]) for n in old)
    started = after.history().started
    assert started is not None and started.begun is not None
    assert started.begun.source == f"run {before.name}, round 1"
    assert not after.model_path(0).exists() and not after.model_path(1).exists()
    for path in sorted(before.path.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    rows = replay(after, {})
    assert len(rows) == 5 and all(row.same for row in rows)


def test_a_file_gives_the_same_bytes_as_the_run_that_it_is_from(given, tmp_path):
    """Whatever its form; from Python and by the command too."""
    before = run(tmp_path, given)
    torch.save(tensors(before.model_path(1)), tmp_path / "w.pt")
    by_name = run(tmp_path, given, from_=before.name)
    by_file = run(tmp_path, given, from_=str(tmp_path / "w.pt"))
    trained = public.train(state=tmp_path, from_=tmp_path / "w.pt", **given).wait()
    folders = (by_name, by_file, RunFolder.find(tmp_path, trained.name))
    assert len({folder.history().model_of(1) for folder in folders}) == 1
    assert by_file.history().started.begun.source == "w.pt"
    assert run(tmp_path, given).history().model_of(1) == before.history().model_of(1)


def test_what_cannot_be_begun_with_is_one_line(given, tmp_path, flctl):
    """Before a run is made."""
    for begin, error, why in (
        ("nope", UsageError, "nope"),
        (str(tmp_path / "nope.pt"), DataError, "no such file"),
        (given["data"], DataError, "neither safetensors nor"),
    ):
        with pytest.raises(error, match=why):
            run(tmp_path, given, from_=begin)
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").glob("ecg*"))
    done = flctl("train", "--task", "ecg", "--virtual", 2, "--from-partial")
    assert done.code == 2 and "from_partial requires from" in done.complaint
    done = flctl("train", "--task", "ecg", "--virtual", 2, "--from", "")
    assert done.code == 2 and "--from" in done.complaint
    (tmp_path / "w.pt").write_bytes(b"")
    done = flctl("train", "--task", "ecg", "--virtual", 2, "--from", tmp_path / "w.pt",
                 "--save-model", tmp_path / "w.pt")  # fmt: skip
    assert done.code == 2 and "is an input, and would be overwritten" in done.complaint
    done = flctl("train", "--task", "ecg", "--virtual", 2, "--from", "gone.pt")
    assert done.code == 1 and "gone.pt" in done.complaint


def test_a_run_shows_what_it_began_with(given, tmp_path, flctl, monkeypatch):
    """With its digest; of a part of the tensors how many."""
    state = tmp_path / "state"
    before = run(state, given)
    some = dict(list(tensors(before.model_path(1)).items())[:3])
    torch.save(some, tmp_path / "some.pt")
    monkeypatch.chdir(tmp_path)
    args = [f"--{key.replace('_', '-')}={value}" for key, value in given.items()]
    done = flctl("train", *args, "--from", "some.pt", "--from-partial", "--json")
    assert done.code == 0, done.err
    name = json.loads(done.out.splitlines()[-1])["run"]
    shown = flctl("runs", "show", name).out
    assert f"begun with  some.pt, 3 of {len(tensors(before.model_path(1)))} tensors" in shown
