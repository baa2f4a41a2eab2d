"""Makes `flctl_lamps/images`. The images are drawn, no camera took them.

Three machines, each with its own wall behind it; a lamp of each is red, green or off. Same program,
same pixels: python make_images.py
"""

from pathlib import Path

import numpy as np
from PIL import Image

MACHINES, EACH, SIZE = 3, 8, 24
COLOURS = {"green": (40, 210, 60), "off": (70, 70, 70), "red": (230, 50, 40)}


def main() -> None:
    draw = np.random.default_rng(2026)
    across, down = np.meshgrid(np.arange(SIZE), np.arange(SIZE))
    for machine in range(1, MACHINES + 1):
        wall = draw.integers(100, 200, 3)
        for name, colour in COLOURS.items():
            folder = Path(__file__).with_name("flctl_lamps") / "images" / name
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(EACH):
                x, y = draw.uniform(7, SIZE - 7, 2)
                lamp = ((across - x) ** 2 + (down - y) ** 2 < draw.uniform(12, 30))[..., None]
                light = draw.uniform(0.7, 1.0)
                pixels = np.where(lamp, colour, wall) * light
                image = Image.fromarray(pixels.astype(np.uint8))
                image.save(folder / f"machine-{machine}-{number}.png")


if __name__ == "__main__":
    main()
