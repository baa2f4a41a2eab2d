import numpy as np
import pytest
from scipy.signal import resample_poly

from flctl.learning.resampling import resample


@pytest.mark.parametrize(
    ("up", "down", "length"),
    [(25, 72, 20_000), (125, 128, 3_000), (1, 8, 5_000), (125, 257, 3_001), (2, 1, 400),
     (125, 64, 777), (25, 72, 1), (50_000, 24_989, 9_000), (1, 1, 5)],
)  # fmt: skip
def test_it_gives_what_scipy_gives(up, down, length):
    """To some last bits, at the ends of the signal too."""
    x = np.random.default_rng(1).normal(0, 200, length)
    there, own = resample_poly(x, up, down), resample(x, up, down)
    assert own.shape == there.shape
    assert np.abs(own - there).max() < 1e-10
