"""The same systems as a server and clients of their own: real processes and sockets on one machine.

    python benchmarks/compare/fleet.py                  every row
    python benchmarks/compare/fleet.py flwr --clients 10 --kill server

The network of McMahan et al. 2017 (1.66 million parameters); each client trains six batches a
round, so that what is seen is the system. Writes results/fleet-SYSTEM-CLIENTS-KILL.json: seconds
of the first round (from the command's start) and of the others (their median), memory (PSS) of
the server's processes and of one idle client's. `--kill` ends the server, or one client, with
SIGKILL in the third round, starts it again after five seconds, and looks whether the run comes to
its end.
"""

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import run
from fleet_systems import LIMIT_S, ROUNDS, Flctl, Fleet, Flwr, Nvflare

AGAIN_S = 5.0
SYSTEMS: dict[str, type[Fleet]] = {"flctl": Flctl, "flwr": Flwr, "nvflare": Nvflare}


@contextmanager
def watched(fleet: Fleet) -> Iterator[list[float]]:
    """The server's largest memory so far, in a list of one."""
    peak, ended = [0.0], threading.Event()

    def look() -> None:
        while not ended.wait(0.2):
            peak[0] = max(peak[0], fleet.memory("server"))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()


def measure(fleet: Any, kill: str) -> dict[str, Any]:
    fleet.open()
    time.sleep(5)
    row: dict[str, Any] = {"idle_client_mib": fleet.memory("client-0"),
                           "idle_server_mib": fleet.memory("server")}  # fmt: skip
    ends: dict[int, float] = {}
    began, seen, killed = time.monotonic(), 0, 0.0
    fleet.train()
    with watched(fleet) as peak:
        while time.monotonic() - began < LIMIT_S and ROUNDS not in ends:
            lines = fleet.log(fleet.rounds_in).splitlines()
            for line in lines[seen:]:
                if (number := fleet.done(line)) is not None and number > 0:
                    ends.setdefault(number, time.monotonic() - began)
            seen = len(lines)
            victim = {"client": "client-0"}.get(kill, kill)
            if kill != "none" and 2 in ends and not killed:
                time.sleep(0.3)  # in the middle of the third
                fleet.kill(victim)
                time.sleep(AGAIN_S)
                fleet.server() if kill == "server" else fleet.client(0)
                killed = time.monotonic()
            if killed and time.monotonic() - killed > AGAIN_S:
                row["state"] = fleet.state()
                if row["state"] == fleet.finished:
                    break
            time.sleep(0.02 if not killed else 0.5)
    order = [ends[number] for number in sorted(ends)]
    later = [b - a for a, b in pairwise(order)]
    row |= {
        "first_round_s": round(order[0], 2) if order else None,
        "round_s": round(statistics.median(later), 3) if later and kill == "none" else None,
        "server_peak_mib": peak[0], "rounds_seen": len(order),
        "finished": ROUNDS in ends or row.get("state") == fleet.finished,
    }  # fmt: skip
    if not row["finished"]:
        row["words"] = {name: fleet.log(name).splitlines()[-6:] for name in ("run", "server")}
        row["state"] = fleet.state()
    return row


def measured(system: str, clients: int, kill: str, mnist: str) -> None:
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="fleet-") as folder:
        fleet = SYSTEMS[system](Path(folder), clients, mnist, system)
        try:
            row = measure(fleet, kill)
        finally:
            fleet.close()
    name = f"fleet-{system}-{clients}-{kill}"
    about = {
        "fleet": system, "clients": clients, "kill": kill,
        "version": run.version(fleet.programs, system), "machine": run.machine(),
        "date": time.strftime("%Y-%m-%d %H:%M"), "load_before": round(load, 2),
        "commands": [*fleet.commands[:2], fleet.commands[-1]],
    }  # fmt: skip
    (run.RESULTS / f"{name}.json").write_text(json.dumps({**about, **row}, indent=1) + "\n")
    print(name, row, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("systems", nargs="*", default=list(SYSTEMS))
    parser.add_argument("--clients", type=int, nargs="+", default=[3, 6, 10])
    parser.add_argument("--kill", choices=["none", "server", "client"], nargs="*",
                        help="else all three of three clients, none of more")  # fmt: skip
    parser.add_argument("--mnist", default=str(run.ROOT.parent / "shared" / "data" / "mnist"))
    options = parser.parse_args()
    if unknown := {*options.systems} - {*run.SYSTEMS}:
        parser.error(f"{', '.join(unknown)}: choose from {', '.join(SYSTEMS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    run.RESULTS.mkdir(exist_ok=True)
    for clients in options.clients:
        for kill in options.kill or (["none", "server", "client"] if clients == 3 else ["none"]):
            for system in (name for name in options.systems if name in SYSTEMS):
                measured(system, clients, kill, options.mnist)


if __name__ == "__main__":
    main()
