"""The program that builds the heartbeats that ship with flctl."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from wfdb_records import write_record

from flctl.learning.ecg import Ecg

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "build_ecg_demo.py"
SHIPS = ROOT / "flctl" / "learning" / "data" / "ecg_demo.npz"


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("build_ecg_demo", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_public_records_give_what_ships(mitdb_dir):
    """All arrays of records 106, 119 and 208 are the same: windows, classes, split, places."""
    command = [sys.executable, SCRIPT, mitdb_dir, "--compare", SHIPS]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    same = "the same: X, y, record, sample, symbol, rr_prev_ms, rr_next_ms, split"
    assert done.stdout.splitlines() == [
        f"record {record}: {count} beats, there {count}; {same}"
        for record, count in ((106, 470), (119, 470), (208, 594))
    ]


def test_a_difference_is_named(mitdb_dir, tmp_path, script, capsys):
    """By record and array, and the program ends with 1."""
    with np.load(SHIPS) as file:
        arrays = dict(file)
    arrays["y"] = np.where(arrays["record"] == 119, 3, arrays["y"])
    np.savez(tmp_path / "other.npz", **arrays)
    assert not script.compare(mitdb_dir, tmp_path / "other.npz")
    assert [line.split("; ")[1][:15] for line in capsys.readouterr().out.splitlines()] == [
        "the same: X, y,",
        "different: y",
        "the same: X, y,",
    ]


def test_it_writes_a_file_that_the_task_reads(tmp_path, script, capsys):
    """The records in the order of the file that ships, two of them never trained on."""
    for record in script.RECORDS:
        write_record(tmp_path / "db", str(record), "NV")
    script.build(tmp_path / "db", tmp_path / "out.npz")
    task = Ecg()
    assert set(task.test_parts(tmp_path / "out.npz")["unseen"].group) == {"116", "205"}
    assert len(set(task.train_data(tmp_path / "out.npz").group)) == 16
    with np.load(tmp_path / "out.npz") as made, np.load(SHIPS) as ships:
        assert list(made) == list(ships)
        assert {n: made[n].dtype.kind for n in made} == {n: ships[n].dtype.kind for n in ships}
        assert list(dict.fromkeys(made["record"])) == list(dict.fromkeys(ships["record"]))
        assert json.loads(str(made["meta"])) == json.loads(str(ships["meta"]))
    assert "of 18 records" in capsys.readouterr().out


def test_a_class_is_thinned_out_evenly(script):
    """From its first beat to its last."""
    assert script.evenly(np.arange(100, 1100), 3).tolist() == [100, 600, 1099]
    assert script.evenly(np.arange(4), 10).tolist() == [0, 1, 2, 3]


def test_a_missing_record_is_one_line(tmp_path):
    """And nothing is written."""
    command = [sys.executable, SCRIPT, tmp_path, tmp_path / "out.npz"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == f"build_ecg_demo.py: {tmp_path}: record 106: there is no 106.hea\n"
    assert not (tmp_path / "out.npz").exists()
