"""What a federated run is compared with."""

import numpy as np
import pytest

from flctl.errors import RunError
from flctl.fleet.comparison import Comparison, compute


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
        assert set(made.final) == {"later", "unseen"}
        assert made.final["later"].accuracy == made.curve[max(made.curve)].accuracy


def test_what_goes_wrong_is_told(given):
    """A process that fails leaves its last words."""
    with (
        Comparison({**given, "data": "/nonexistent"}) as comparison,
        pytest.raises(RunError, match="/nonexistent"),
    ):
        comparison.result("central")
