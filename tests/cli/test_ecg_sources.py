"""Heartbeats as they come: each kind of file does wherever data are named."""

import json

import numpy as np
import pytest
from wfdb_records import write_record

from flctl.learning.beat_files import read_beats
from flctl.learning.ecg import Ecg
from flctl.learning.state import checkpoint_metadata, save_state
from flctl.learning.task import initial_model

RUN = ("--task", "ecg", "--rounds", 1, "--epochs", 1, "--seed", 1, "--partition", "record")


@pytest.fixture
def records(tmp_path):
    """Two WFDB records with beats of two classes."""
    for name in ("a", "b"):
        write_record(tmp_path / "records", name, "NNV")
    return tmp_path / "records"


def trained(flctl, folder, data, *fleet):
    model = folder / f"{data.name}{fleet[0]}.safetensors"
    done = flctl("train", *RUN, *fleet, "--data", data, "--save-model", model)
    assert done.code == 0, done.err
    return model.read_bytes()


def save_model(folder):
    with (folder / "new.safetensors").open("wb+") as file:
        state = initial_model(Ecg(), seed=1).state_dict()
        save_state(file.fileno(), state, checkpoint_metadata("ecg"))
    return folder / "new.safetensors"


def test_records_and_the_same_beats_as_npz_make_the_same_model(flctl, tmp_path, records):
    """Simulated agents on the folder of records, and on their beats, and local agents."""
    files = read_beats(records)
    beats = {name: np.concatenate([getattr(f, name) for f in files]) for name in ("x", "y")}
    record = np.concatenate([file.record for file in files])
    rhythm = np.concatenate([file.rhythm for file in files])
    rr = dict(zip(("rr_prev_ms", "rr_next_ms", "rr_usual_ms"), rhythm.T, strict=True))
    np.savez(tmp_path / "same.npz", X=beats["x"], y=beats["y"], record=record, **rr)
    models = {
        trained(flctl, tmp_path, records, "--virtual", 2),
        trained(flctl, tmp_path, tmp_path / "same.npz", "--virtual", 2),
        trained(flctl, tmp_path, records, "--local", 2),
    }
    assert len(models) == 1


def test_each_kind_of_file_may_be_for_testing(flctl, tmp_path, records):
    """A record, a CSV file; for a run and for `evaluate`."""
    beats = read_beats(records / "a.hea")[0]
    names = [*(f"s{at}" for at in range(187)), "class", "rr_prev_ms", "rr_next_ms", "rr_usual_ms"]
    rows = np.c_[beats.x, beats.y, beats.rhythm]
    np.savetxt(
        tmp_path / "a.csv", rows, delimiter=",", fmt="%d", header=",".join(names), comments=""
    )
    model = tmp_path / "model.safetensors"
    found = []
    for test in (records / "a.hea", tmp_path / "a.csv"):
        run = (*RUN, "--virtual", 2, "--data", records, "--test-data", test)
        assert flctl("train", *run, "--save-model", model).code == 0
        found.append(flctl("evaluate", model, "--data", test).out)
    assert found[0] == found[1]
    assert str(len(beats.x)) in found[0]


def test_a_broken_record_ends_the_command_with_one_line(flctl, tmp_path, records):
    """Wherever it is read."""
    (records / "b.dat").write_bytes(b"short")
    for args in (
        ("train", *RUN, "--virtual", 2, "--data", records),
        ("train", *RUN, "--local", 2, "--data", records),
        ("data", "describe", records, "--task", "ecg"),
        ("evaluate", save_model(tmp_path), "--data", records),
    ):
        done = flctl(*args)
        assert done.code == 1
        assert f"{records}: record b: b.dat is cut off" in done.complaint


@pytest.fixture
def reads_as(monkeypatch):
    """What flags leave for the processes that are started goes away with the test."""
    for name in ("FLCTL_LEAD", "FLCTL_ANNOTATOR", "FLCTL_R_AT"):
        monkeypatch.setenv(name, "")


@pytest.mark.usefixtures("reads_as")
def test_what_was_read_is_said_and_another_lead_can_be_named(flctl, tmp_path):
    """By `data describe` and `predict`, for people and as JSON, with what was left out and why."""
    folder = tmp_path / "records"
    write_record(folder, "a", "NNV", leads=["ECG lead I", "ECG lead II"])
    write_record(folder, "b", "NNV", leads=["RESP", "PLETH"])
    done = flctl("data", "describe", folder, "--task", "ecg")
    assert done.code == 0
    assert "Read: lead: ECG lead II" in done.out
    assert "Read: annotator: atr" in done.out
    assert "record b: no signal is named as an ECG: RESP, PLETH" in done.out
    told = json.loads(flctl("data", "describe", folder, "--task", "ecg", "--json").out)["read"]
    assert told[0]["facts"]["lead"] == "ECG lead II"
    assert "PLETH" in told[1]["problem"]
    model = save_model(tmp_path)
    for args, lead in (((), "ECG lead II"), (("--lead", "i"), "ECG lead I")):
        done = flctl("predict", model, folder / "a.hea", *args)
        assert f"Read: lead: {lead}\n" in done.out
        told = json.loads(flctl("predict", model, folder / "a.hea", *args, "--json").out)
        assert told["read"][0]["facts"]["lead"] == lead
    done = flctl("predict", model, folder / "a.hea", "--lead", "V5")
    assert "there is no lead V5, but ECG lead I, ECG lead II" in done.complaint


@pytest.mark.usefixtures("reads_as")
def test_training_takes_the_lead_and_the_annotator_that_are_named(flctl, tmp_path):
    """Simulated agents and agents in processes of their own alike."""
    folder = tmp_path / "records"
    for name in ("a", "b"):
        header = write_record(folder, name, "NNV", leads=["MLII", "ch2"])
        header.with_suffix(".atr").rename(header.with_suffix(".mine"))
    named = ("--lead", "ch2", "--annotator", "mine")
    models = {trained(flctl, tmp_path, folder, "--virtual", 2, *named),
              trained(flctl, tmp_path, folder, "--local", 2, *named)}  # fmt: skip
    assert len(models) == 1


@pytest.mark.parametrize("fleet", ["--virtual", "--local"])
def test_a_run_remembers_how_its_data_were_read(flctl, tmp_path, monkeypatch, fleet):
    """From a flag or the environment: for its record, a resume, a replay, and who tries its model,
    whatever the environment says by then."""
    folder = tmp_path / "records"
    for name in ("a", "b"):
        write_record(folder, name, "NNV", leads=["ch2", "MLII"])
    monkeypatch.setenv("FLCTL_LEAD", "ch2")
    trained(flctl, tmp_path, folder, fleet, 2, "--annotator", "atr")
    monkeypatch.delenv("FLCTL_LEAD")
    (run,) = json.loads(flctl("runs", "list", "--json").out)
    about = json.loads(flctl("runs", "show", run["run"], "--json").out)
    assert about["settings"]["lead"] == "ch2"
    assert about["settings"]["annotator"] == "atr"
    for named in ("", "MLII"):
        monkeypatch.setenv("FLCTL_LEAD", named)
        done = flctl("runs", "replay", about["run"])
        assert done.code == 0, done.out + done.err
    monkeypatch.delenv("FLCTL_LEAD")
    model = tmp_path / f"records{fleet}.safetensors"
    done = flctl("predict", model, folder / "a.hea")
    assert "read with --annotator atr --lead ch2, these are read as they say themselves" in done.err
    done = flctl("predict", model, folder / "a.hea", "--lead", "ch2", "--annotator", "atr")
    assert "learnt from" not in done.err


@pytest.mark.usefixtures("reads_as")
def test_the_command_that_is_proposed_measures_the_same_data(flctl, tmp_path, records):
    """Those that were named for the run, not those that ship."""
    done = flctl("train", *RUN, "--virtual", 2, "--data", records)
    assert f"--task ecg --data {records}" in done.out
    beats = records / "a.hea"
    done = flctl("train", *RUN, "--virtual", 2, "--data", records, "--test-data", beats)
    assert f"--task ecg --data {beats}" in done.out


def test_an_impossible_annotator_is_refused_in_plain_words(flctl, tmp_path):
    """Not as a pattern."""
    told = flctl("data", "describe", tmp_path, "--task", "ecg", "--annotator", "../x")
    assert told.code == 2
    assert "--annotator ../x: must be 1 to 20 letters" in told.complaint
