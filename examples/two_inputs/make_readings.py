"""Makes `flctl_lights/readings.csv`. The pictures are invented, no lamp was photographed.

Six cameras, 40 pictures of 8 x 8 pixels each: a wall is brighter when its lamp is on, and also when
there is more light outside, so that neither the picture nor the light outside is enough. Same
program, same bytes: python make_readings.py
"""

import csv
import random
from pathlib import Path

CAMERAS, PICTURES, SIZE = 6, 40, 8
STATES = ("off", "on")


def picture(state: str, outside: float, draw: random.Random) -> bytes:
    """Grey values row by row; the lamp hangs on the left, beside the window."""
    pixels = []
    for _ in range(SIZE):
        for column in range(SIZE):
            light = 1.3 * outside + (70 if state == "on" else 0)
            grey = 20 + light * (1 - column / SIZE) + draw.gauss(0, 6)
            pixels.append(min(255, max(0, round(grey))))
    return bytes(pixels)


def main() -> None:
    draw = random.Random(2026)
    target = Path(__file__).with_name("flctl_lights") / "readings.csv"
    with target.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(("camera", "part", "lamp", "outside_klx", "picture"))
        for camera in range(1, CAMERAS + 1):
            for number in range(PICTURES):
                state, outside = draw.choice(STATES), round(draw.uniform(0, 100), 1)
                part = "test" if number % 4 == 3 else "train"
                grey = picture(state, outside, draw).hex()
                out.writerow((f"c{camera:02d}", part, state, outside, grey))


if __name__ == "__main__":
    main()
