"""Drawn shapes, to try task `images` with: no camera took them."""

import io

import numpy as np
from numpy.typing import NDArray

CLASSES = ("circle", "cross", "square", "triangle")
EACH, SIZE = 100, 64


def sample_images() -> dict[str, bytes]:
    """PNG files by their path: the same pixels each time."""
    from PIL import Image

    found: dict[str, bytes] = {}
    rng = np.random.default_rng(7)
    for name in CLASSES:
        for number in range(EACH):
            file = io.BytesIO()
            Image.fromarray(_drawn(name, rng)).save(file, "PNG")
            found[f"{name}/{number:03d}.png"] = file.getvalue()
    return found


def _drawn(name: str, rng: np.random.Generator) -> NDArray[np.uint8]:
    """One shape somewhere, of some size and colour, turned a little, on a noisy ground."""
    across, down = np.meshgrid(np.arange(SIZE), np.arange(SIZE))
    radius = rng.uniform(18, 26)
    x, y = rng.uniform(radius, SIZE - radius, 2)
    turn = rng.uniform(-0.2, 0.2)
    u = ((across - x) * np.cos(turn) + (down - y) * np.sin(turn)) / radius
    v = ((down - y) * np.cos(turn) - (across - x) * np.sin(turn)) / radius
    inside = {
        "circle": u**2 + v**2 < 1,
        "cross": (np.minimum(abs(u), abs(v)) < 0.3) & (np.maximum(abs(u), abs(v)) < 1),
        "square": np.maximum(abs(u), abs(v)) < 0.85,
        "triangle": (v < 0.8) & (v > 2 * abs(u) - 1),
    }[name]
    ground, colour = rng.integers(0, 60, 3), rng.integers(160, 256, 3)
    picture = np.where(inside[..., None], colour, ground) + 8 * rng.integers(-1, 2, (SIZE, SIZE, 1))
    return picture.clip(0, 255).astype(np.uint8)
