"""Makes `flctl_pump/readings.csv`. The readings are invented, no pump was measured.

Six pumps, each with a habit of its own. Of each, the first two thirds of the readings are normal
and for training; of the others, for testing, one in eight is of a pump that leaks or runs dry.
Same program, same bytes: python make_readings.py
"""

import csv
import random
from pathlib import Path

PUMPS, READINGS = 6, 120
"""Readings of each pump."""


def main() -> None:
    draw = random.Random(2026)
    target = Path(__file__).with_name("flctl_pump") / "readings.csv"
    with target.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(("pump", "part", "flow_l_s", "pressure_bar", "current_a", "warmth_c", "fault"))
        for pump in range(1, PUMPS + 1):
            lift = draw.uniform(0.9, 1.1)
            for reading in range(READINGS):
                test = reading >= 2 * READINGS // 3
                fault = draw.choice(("leaks", "dry")) if test and draw.random() < 1 / 8 else ""
                flow = draw.uniform(2.0, 6.0)
                pressure = 8.0 - 0.6 * flow * lift - (0.6 if fault == "leaks" else 0.0)
                current = 1.0 + 0.5 * flow - (0.3 if fault == "dry" else 0.0)
                warmth = 30.0 + 4.0 * current + (2.0 if fault == "dry" else 0.0)
                row = (
                    f"{value + draw.gauss(0.0, noise):.2f}"
                    for value, noise in zip(
                        (flow, pressure, current, warmth), (0.05, 0.1, 0.05, 0.5), strict=True
                    )
                )
                out.writerow((f"p{pump:02d}", "test" if test else "train", *row, fault))


if __name__ == "__main__":
    main()
