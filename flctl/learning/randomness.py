"""Every random choice is a pure function of the run's seed and of what it is for."""

import hashlib

import numpy as np


def derive(seed: int, *words: str | int) -> int:
    """A number in [0, 2**63) that depends on `seed` and all `words`, in their order."""
    text = "\x1f".join([str(seed), *(f"{type(word).__name__}:{word}" for word in words)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *words: str | int) -> np.random.Generator:
    """A numpy generator of its own for this purpose."""
    return np.random.default_rng(derive(seed, *words))
