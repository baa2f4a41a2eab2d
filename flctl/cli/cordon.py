"""`flctl cordon` and `uncordon`: hold agents back while something is done to them."""

import time
from typing import Annotated, Any

import typer

from flctl.cli.finding import coordinator
from flctl.cli.options import Context, State, state_folder
from flctl.cli.values import seconds
from flctl.errors import FlctlError

BUSY = ("training", "evaluating", "offering")
LOOK_S = 1.0
GONE = "not enrolled any more"

Names = Annotated[list[str], typer.Argument(metavar="NAME…", help="Agents, as in flctl status.")]


def cordon(
    names: Names,
    wait: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Also wait until they have finished what they do; fail when it takes longer.",
        ),
    ] = None,
    state: State = None,
    context: Context = None,
) -> None:
    """Invite these agents to no further round.

    Each finishes the round that it is in, then it is free to be upgraded, moved or switched
    off. It stays cordoned, whatever is restarted, until flctl uncordon.
    """
    wait_s = None if wait is None else seconds(wait, "--wait")
    with coordinator(state_folder(state), context) as console:
        for name in names:
            console.cordon(name)
        if wait_s is not None:
            _until_idle(console, names, wait_s)


def uncordon(names: Names, state: State = None, context: Context = None) -> None:
    """Invite these agents again."""
    with coordinator(state_folder(state), context) as console:
        for name in names:
            console.uncordon(name)


def _until_idle(console: Any, names: list[str], wait_s: float) -> None:
    until = time.monotonic() + wait_s
    while busy := _busy(console.status(), names):
        if time.monotonic() >= until:
            raise FlctlError(
                f"still at work after {wait_s:.0f} s: {busy}; they stay cordoned: wait longer, or "
                "invite them again with flctl uncordon"
            )
        time.sleep(LOOK_S)


def _busy(found: dict[str, Any], names: list[str]) -> str:
    """Those of `names` that are in the midst of something."""
    states = {agent["name"]: agent["state"] for agent in found["agents"]}
    run = found["coordinator"]["run"] or {}
    # Its own word may be some seconds old; the round knows who owes it an update.
    owing = run.get("waiting_for", ())
    busy = (name for name in names if name in owing or states.get(name) in BUSY)
    return ", ".join(f"{name} ({states.get(name, GONE)})" for name in busy)
