"""Makes `flctl_energy/readings.csv`. The readings are invented, no house was measured.

Eight houses, each with a habit of its own (insulation, size, people at home) that no other has.
Of each, every fourth day is for testing. Same program, same bytes:
python make_readings.py
"""

import csv
import math
import random
from pathlib import Path

HOUSES, DAYS = 8, 120
"""Days of each house."""


def main() -> None:
    draw = random.Random(2025)
    target = Path(__file__).with_name("flctl_energy") / "readings.csv"
    with target.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(("house", "part", "outside_c", "wind_m_s", "sun_h", "people", "energy_kwh"))
        for house in range(1, HOUSES + 1):
            leak, usual = draw.uniform(0.9, 1.5), draw.uniform(5.0, 9.0)
            for day in range(DAYS):
                outside = 9 - 9 * math.cos(2 * math.pi * (day + 15) / DAYS) + draw.gauss(0, 3)
                wind, sun = draw.expovariate(1 / 3), draw.uniform(0, 12)
                people = draw.randint(0, 5)
                heat = leak * max(0.0, 18 - outside) * (1 + 0.05 * wind)
                energy = usual + heat + 1.4 * people - 0.3 * sun + draw.gauss(0, 1)
                part = "train" if day % 4 < 3 else "test"
                row = f"{outside:.1f}", f"{wind:.1f}", f"{sun:.1f}", people, f"{max(0, energy):.2f}"
                out.writerow((f"h{house:02d}", part, *row))


if __name__ == "__main__":
    main()
