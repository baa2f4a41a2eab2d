"""benchmarks/ecg_left_out.py: its groups and weights, and one round of it."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from flctl.learning.ecg import Ecg

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
MOST = {"N": 250, "S": 120, "V": 220, "F": 120, "Q": 220}
"""Beats of a class of one record in the set that ships (scripts/build_ecg_demo.py)."""


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("ecg_left_out", BENCHMARKS / "ecg_left_out.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_counts_are_those_of_the_full_records(script, mitdb_dir):
    """Of three records they are counted here (a beat at either end may lack its window); of the
    others all classes of which the set that ships holds every beat."""
    for record in (106, 119, 208):
        y = Ecg().cases(mitdb_dir / f"{record}.hea").examples.labels
        assert np.abs(np.bincount(y, minlength=5) - script.BEATS[record]).max() <= 2
    task = Ecg()
    parts = [task.train_data(None), *task.test_parts(None).values()]
    y, group = (np.concatenate([getattr(p, name) for p in parts]) for name in ("labels", "group"))
    for record, beats in script.BEATS.items():
        held = np.bincount(y[group == str(record)], minlength=5)
        for name, count, full in zip(task.classes, held, beats, strict=True):
            if count == MOST[name]:
                assert full >= count
            else:
                assert 0 <= full - count <= 2, (record, name)


def test_everybody_is_left_out_once(script):
    groups = [patient for group in script.GROUPS for patient in group]
    assert sorted(groups) == sorted(script.BEATS)


def test_a_class_weighs_as_many_beats_as_the_full_record_has(script):
    confusion = np.array([[8.0, 2.0], [1.0, 3.0]])
    np.testing.assert_allclose(script.weighted(confusion, (100, 2)), [[80, 20], [0.5, 1.5]])
    assert not script.weighted(np.zeros((2, 2)), (5, 5)).any()
    found = script.figures({107: np.diag([1.0, 1.0]), 106: np.array([[2.0, 2.0], [0.0, 0.0]])})
    assert found["mean"] == 0.75 and found["not paced"] == 0.5
    assert found["accuracy"] == pytest.approx(4 / 6)


def test_one_round_judges_a_group_it_has_not_seen(script):
    found = script.judge((106, 207), {"rounds": 1, "epochs": 1, "seed": 1}, lambda _: None)
    assert found.keys() == {"as it is", "corrected"}
    for patients in found.values():
        assert {p: round(c.sum()) for p, c in patients.items()} == {106: 2027, 207: 1860}
