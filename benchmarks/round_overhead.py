"""What a round costs in flctl, beside the two floors of `floor.py`, measured in one go.

    .venv/bin/python benchmarks/round_overhead.py --agents 3 --model-mb 1.72

K agents that learn nothing, each a process of its own, on this machine, over loopback. Prints
JSON lines {"system", "metric", "k", "model_mb", "value", "unit"}; system is `flctl`, `floor` or
`durable_floor`. `round_s` is the median of all rounds but the first.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import flctl_system
import floor
from measures import Result
from models import parameter_bytes, shapes

FEWEST, MOST = 6, 60
"""Rounds of flctl, when their number is not given."""


def main() -> None:
    options = _options()
    of = shapes(options.model_mb)
    results: dict[str, Result] = {}
    with TemporaryDirectory(prefix="flctl-bench-", dir=options.folder) as name:
        folder = Path(name)
        for system in ("floor", "durable_floor"):
            print(f"{system}: {options.agents} agents", file=sys.stderr)
            results[system] = floor.measure(
                options.agents,
                parameter_bytes(of),
                folder,
                durable=system == "durable_floor",
                seconds=options.seconds,
                rounds=options.rounds,
            )
            report(system, results[system], options)
        rounds = options.rounds or _rounds(results["durable_floor"], options.seconds)
        print(f"flctl: {options.agents} agents, {rounds} rounds", file=sys.stderr)
        measured, idle = flctl_system.measure(
            options.agents, options.model_mb, folder, rounds=rounds, idle_s=options.idle_s
        )
        report("flctl", measured, options)
        if idle is not None:
            line("flctl", "idle_supervisor_rss_mib", idle.rss_mib, "MiB", options)
            line("flctl", "idle_supervisor_cpu_pct", idle.cpu_percent, "%", options)


def report(system: str, result: Result, options: argparse.Namespace) -> None:
    later = result.rounds_s[1:] or result.rounds_s
    shared = options.agents * len(result.rounds_s)
    line(system, "round_s", statistics.median(later), "s", options)
    line(system, "first_round_s", result.rounds_s[0], "s", options)
    line(system, "coordinator_peak_rss_mib", result.coordinator_peak_rss_mib, "MiB", options)
    line(system, "wire_bytes_per_client_round", result.wire_bytes / shared, "B", options)


def line(system: str, metric: str, value: float, unit: str, options: argparse.Namespace) -> None:
    row = {
        "system": system,
        "metric": metric,
        "k": options.agents,
        "model_mb": options.model_mb,
        "value": round(value, 4),
        "unit": unit,
    }
    print(json.dumps(row), flush=True)


def _rounds(durable: Result, seconds: float) -> int:
    guess_s = 3 * statistics.median(durable.rounds_s)
    return max(FEWEST, min(MOST, int(seconds / guess_s)))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agents", type=int, default=3)
    parser.add_argument("--model-mb", type=float, default=1.72, help="of 10^6 bytes")
    parser.add_argument("--rounds", type=int, default=None, help="of each system")
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="about so long a system, without --rounds"
    )
    parser.add_argument(
        "--idle-s", type=float, default=20.0, help="how long idle agents are watched; 0: not"
    )
    parser.add_argument("--folder", type=Path, default=None, help="on the disk to be measured")
    return parser.parse_args()


if __name__ == "__main__":
    main()
