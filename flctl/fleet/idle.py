"""Waits until agents that are cordoned have finished what they do."""

import time
from typing import Any

from flctl.errors import FlctlError
from flctl.fleet.console import RemoteRuns

BUSY = ("training", "evaluating", "offering")
LOOK_S = 1.0
GONE = "not enrolled any more"


def until_idle(console: RemoteRuns, names: list[str], wait_s: float) -> None:
    until = time.monotonic() + wait_s
    while busy := _busy(console.status(), names):
        if time.monotonic() >= until:
            raise FlctlError(
                f"still working after {wait_s:.0f} s: {busy}; they stay cordoned: wait longer, "
                "or uncordon them with flctl uncordon"
            )
        time.sleep(LOOK_S)


def _busy(found: dict[str, Any], names: list[str]) -> str:
    states = {agent["name"]: agent["state"] for agent in found["agents"]}
    run = found["coordinator"]["run"] or {}
    # An agent's own state may be seconds old; the round knows which updates are missing.
    owing = run.get("waiting_for", ())
    busy = (name for name in names if name in owing or states.get(name) in BUSY)
    return ", ".join(f"{name} ({states.get(name, GONE)})" for name in busy)
