"""benchmarks/ecg_ds1_ds2.py: the figures of the protocol, and what it says of missing records."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from flctl.errors import FlctlError

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "ecg_ds1_ds2.py"


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("ecg_ds1_ds2", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_figures_are_computed_as_in_the_papers(script):
    """A confusion with the figures that de Chazal et al. 2004 have on DS2 (S 75.9 and 38.5 %,
    V 77.7 and 81.9 %), and the jκ that Mar et al. 2011 say of them."""
    confusion = np.array([
        [38444, 1904, 303, 3509, 32],
        [173, 1395, 252, 16, 1],
        [117, 321, 2504, 176, 103],
        [33, 1, 7, 347, 0],
        [5, 0, 1, 1, 0],
    ])  # fmt: skip
    found = script.figures(confusion)
    assert found["beats"] == confusion.sum()
    assert found["accuracy"] == pytest.approx(0.86, abs=0.005)
    assert found["sensitivity"]["S"] == pytest.approx(0.759, abs=0.002)
    assert found["predictivity"]["S"] == pytest.approx(0.385, abs=0.002)
    assert found["sensitivity"]["V"] == pytest.approx(0.777, abs=0.002)
    assert found["predictivity"]["V"] == pytest.approx(0.816, abs=0.005)
    assert found["j_kappa"] == pytest.approx(0.612, abs=0.02)


def test_both_sets_have_22_records_and_no_paced_one(script):
    assert len(set(script.DS1)) == len(set(script.DS2)) == 22
    assert not set(script.DS1) & set(script.DS2)
    assert not {102, 104, 107, 217} & {*script.DS1, *script.DS2}


def test_missing_records_are_named(script, mitdb_dir, monkeypatch, capsys):
    """Of both sets; without any of one there is nothing to compare."""
    with pytest.raises(FlctlError, match="no record of DS2 is there"):
        script.run(mitdb_dir, 1, 1)
    assert "missing of DS1: 101, 108, 109" in capsys.readouterr().err
    monkeypatch.setattr(script, "DS2", (208, 100))
    monkeypatch.setattr(script, "DS1", (119, 101))
    found = script.run(mitdb_dir, 1, 1)
    assert found["missing"] == [101, 100]
    names = {"federated", "federated, corrected", "one place", "one place, corrected"}
    assert found["figures"].keys() == names
    assert found["figures"]["federated"]["beats"] == 2952
