"""Makes `flctl_doors/readings.csv`. The traces are invented, no door was measured.

Six doors with an accelerometer, 40 events each: somebody knocks a few times, opens it slowly, or
slams it. An event lasts as long as it lasts. Same program, same bytes: python make_readings.py
"""

import csv
import math
import random
from pathlib import Path

DOORS, EVENTS = 6, 40
WHAT = ("knock", "open", "slam")


def trace(what: str, draw: random.Random, stiffness: float) -> list[float]:
    length = {"knock": draw.randint(24, 70), "open": draw.randint(40, 90), "slam": 0}[what]
    length = length or draw.randint(20, 40)
    beats = [draw.randint(3, length - 3) for _ in range(draw.randint(2, 5))]
    values = []
    for at in range(length):
        if what == "knock":
            value = sum(
                math.exp(-(at - b) / 1.5) * math.cos(2.2 * (at - b)) for b in beats if at >= b
            )
        elif what == "open":
            value = 0.5 * math.sin(math.pi * at / length)
        else:
            value = 2.2 * math.exp(-at / 9) * math.cos(0.9 * at)
        values.append(stiffness * value + draw.gauss(0, 0.08))
    return values


def main() -> None:
    draw = random.Random(2026)
    target = Path(__file__).with_name("flctl_doors") / "readings.csv"
    with target.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(("door", "part", "event", "trace_g"))
        for door in range(1, DOORS + 1):
            stiffness = draw.uniform(0.8, 1.25)
            for number in range(EVENTS):
                what = draw.choice(WHAT)
                values = " ".join(f"{value:.2f}" for value in trace(what, draw, stiffness))
                out.writerow((f"d{door:02d}", "test" if number % 4 == 3 else "train", what, values))


if __name__ == "__main__":
    main()
