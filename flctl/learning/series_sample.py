"""Invented readings of pumps, to try task `sensors` with: no pump was measured."""

import csv
import io
from datetime import UTC, datetime, timedelta

import numpy as np

PUMPS, SAMPLES, STEP_S = 6, 3000, 10
COLUMNS = ("current_a", "pressure_bar", "vibration_mm_s", "temperature_c")
BEGIN = datetime(2026, 3, 2, tzinfo=UTC)


def sample_files() -> dict[str, str]:
    """Content of a CSV file of each pump, by its name: the same each time."""
    return {f"pump-{number:02d}.csv": _pump(number) for number in range(1, PUMPS + 1)}


def _pump(number: int) -> str:
    """It idles, pumps and empties by turns; in the last fifth of its time the bearing is worn for a
    while, which shakes it, and the line is blocked once."""
    rng = np.random.default_rng(number)
    turns = rng.integers(80, 260, 64)
    state = np.repeat(np.arange(64) % 3, turns)[:SAMPLES]
    load = np.convolve(np.array([0.1, 1.0, 0.55])[state], np.ones(8) / 8, "same")
    speed = 2 * np.pi * np.cumsum(0.05 + 0.11 * load)
    label = np.zeros(SAMPLES, np.int64)
    worn, blocked = 2520 + int(rng.integers(0, 80)), 2800 + int(rng.integers(0, 60))
    label[worn : worn + 120], label[blocked : blocked + 80] = 1, 2
    noise = rng.normal(size=(4, SAMPLES))
    flow = 42 * load * (1 - 0.15 * (label == 2)) + 0.6 * noise[0]
    current = 0.4 + 3.1 * load + 0.9 * (label == 2) + 0.08 * noise[1]
    pressure = 0.9 + 2.2 * load + 1.4 * (label == 2) + 0.25 * np.sin(speed) + 0.06 * noise[2]
    shake = (0.5 + 1.4 * load) * np.sin(speed * 1.7) * (1 + 1.8 * (label == 1)) + 0.2 * noise[3]
    warm = 21 + number + 9 * np.convolve(load, np.exp(-np.arange(400) / 120) / 120)[:SAMPLES]
    lost = {*rng.integers(0, SAMPLES, 12).tolist(), *range(1200, 1230)}  # the radio was off
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("time", *COLUMNS, "flow_l_min", "state", "label"))
    for at in range(SAMPLES):
        if at in lost:
            continue
        when = (BEGIN + timedelta(seconds=STEP_S * at)).strftime("%Y-%m-%dT%H:%M:%SZ")
        values = (current[at], pressure[at], shake[at], warm[at], flow[at])
        names = (
            ("idle", "pumping", "emptying")[state[at]],
            ("normal", "worn", "blocked")[label[at]],
        )
        table.writerow((when, *(f"{value:.3f}" for value in values), *names))
    return text.getvalue()
