"""Small data files."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def beats(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes 4 records of 24 beats as an .npz; keywords replace its arrays."""
    folder = tmp_path_factory.mktemp("beats")

    def write(name: str = "beats.npz", **arrays: np.ndarray) -> Path:
        rng = np.random.default_rng(1)
        path = folder / name
        if not path.exists() or arrays:
            n = 96
            whole = {
                "X": rng.integers(-300, 300, (n, 187)).astype(np.int16),
                "y": np.arange(n) % 3,
                "record": np.repeat(["101", "102", "103", "104"], n // 4),
                "split": np.tile([0, 0, 0, 1], n // 4),
            }
            np.savez(path, **{**whole, **arrays})
        return path

    return write
