"""What compressed updates cost in accuracy and save in bytes: ECG and MNIST.

    .venv/bin/python benchmarks/compression.py --mnist FOLDER --seeds 1,2

ECG is the bundled set, dealt to 4 agents by whole records; MNIST are the folder's IDX
files, dealt to 3 agents at random. Clients are simulated, which gives the same models as a
fleet. Prints a JSON line for each run, then a table of the means; the
points lost are those of accuracy against no compression with the same seeds.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from flctl.fleet.virtual import VirtualRun

COMPRESSIONS = ("none", "fp16", "int8", "topk")
ECG: dict[str, Any] = {"task": "ecg", "virtual": 4}
MNIST: dict[str, Any] = {"task": "mnist", "virtual": 3}


def measure(given: dict[str, Any]) -> dict[str, Any]:
    """One run: accuracy at its end in percent, and how many times fewer bytes went up."""
    with tempfile.TemporaryDirectory(prefix="flctl-compression-") as state:
        history = VirtualRun.start(Path(state), given, "benchmark").run()
    assert history.state == "finished", history.reason
    score = history.rounds[-1].metrics
    assert score is not None
    parts = [part for event in history.rounds for part in event.participants.values()]
    plain = sum(event.size * len(event.participants) for event in history.rounds)
    return {
        "task": given["task"],
        "compression": given["compression"],
        "seed": given["seed"],
        "rounds": history.round,
        "accuracy": round(100 * score.values["accuracy"], 3),
        "macro_f1": round(score.values["macro_f1"], 4),
        "bytes_up": sum(part.bytes_up for part in parts) // len(parts),
        "fewer": round(plain / sum(part.bytes_up for part in parts), 2),
        "error": round(statistics.mean(part.compression_error for part in parts), 4),
    }


def table(rows: list[dict[str, Any]]) -> None:
    """Means over the seeds."""
    print(f"{'task':6} {'compression':11} {'accuracy':>8} {'lost':>6} {'macro-F1':>8} "
          f"{'bytes up':>9} {'fewer':>7} {'error':>7}")  # fmt: skip
    for task in dict.fromkeys(row["task"] for row in rows):
        plain = None
        for compression in COMPRESSIONS:
            found = [r for r in rows if (r["task"], r["compression"]) == (task, compression)]
            if not found:
                continue
            mean = {key: statistics.mean(row[key] for row in found)
                    for key in ("accuracy", "macro_f1", "bytes_up", "fewer", "error")}  # fmt: skip
            plain = mean["accuracy"] if compression == "none" else plain
            lost = "-" if plain is None else f"{plain - mean['accuracy']:.2f}"
            print(
                f"{task:6} {compression:11} {mean['accuracy']:8.2f} "
                f"{lost:>6} {mean['macro_f1']:8.3f} "
                f"{mean['bytes_up']:9.0f} {mean['fewer']:5.1f} × {mean['error']:7.4f}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mnist", type=Path, metavar="FOLDER", help="its four IDX files")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--rounds", type=int, help="instead of 30 for ECG and 5 for MNIST")
    parser.add_argument("--only", choices=COMPRESSIONS, action="append")
    parser.add_argument("--no-ecg", action="store_true")
    options = parser.parse_args()
    tasks = [] if options.no_ecg else [ECG]
    if options.mnist is not None:
        tasks.append({**MNIST, "data": str(options.mnist.absolute())})
    rows = []
    for task in tasks:
        for seed in map(int, options.seeds.split(",")):
            for compression in options.only or COMPRESSIONS:
                given = {**task, "seed": seed, "compression": compression}
                rows.append(measure(given | ({"rounds": options.rounds} if options.rounds else {})))
                print(json.dumps(rows[-1]), flush=True)
    table(rows)


if __name__ == "__main__":
    main()
