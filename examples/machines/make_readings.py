"""Makes `flctl_machines/readings.csv`. The readings are invented, no machine was measured.

Eight machines, each with a habit of its own (warmer, louder …) that no other has, so that a
model of one machine alone does badly on the others. Of each, the last quarter of the readings
is for testing. Same program, same bytes: python make_readings.py
"""

import csv
import random
from pathlib import Path

SENSORS = ("temperature_c", "vibration_mm_s", "current_a", "noise_db")
USUAL = (52.0, 1.8, 7.5, 68.0)
SPREAD = (2.5, 0.4, 0.5, 1.5)
HABIT = (4.0, 0.4, 0.8, 2.5)
"""Deviation, between machines, of what is usual."""
FAULT = {
    "fine": (0.0, 0.0, 0.0, 0.0),
    "bearing": (7.0, 0.8, 0.4, 5.0),
    "imbalance": (1.0, 2.6, 1.2, 2.0),
}
MACHINES = 8
READINGS = 100
"""Of each machine."""


def main() -> None:
    draw = random.Random(2024)
    target = Path(__file__).with_name("flctl_machines") / "readings.csv"
    with target.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(("machine", "part", *SENSORS, "state"))
        for machine in range(1, MACHINES + 1):
            habit = [draw.gauss(0.0, spread) for spread in HABIT]
            odds = [6, draw.randint(1, 4), draw.randint(1, 4)]
            for reading in range(READINGS):
                state = draw.choices(list(FAULT), odds)[0]
                values = (
                    f"{usual + own + fault + draw.gauss(0.0, spread):.2f}"
                    for usual, own, fault, spread in zip(
                        USUAL, habit, FAULT[state], SPREAD, strict=True
                    )
                )
                part = "train" if reading < 3 * READINGS // 4 else "test"
                out.writerow((f"m{machine:02d}", part, *values, state))


if __name__ == "__main__":
    main()
