"""Finds runs for commands (`flctl.fleet.connecting`), and shows what is being waited for."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flctl.errors import StateError
from flctl.terminal.output import say, warn
from flctl.terminal.patience import waiting

if TYPE_CHECKING:
    from flctl.coordinator.store.runs import LocalRuns
    from flctl.core.events import AnyEvent
    from flctl.fleet.console import RemoteRuns
    from flctl.records.recorded import RecordedRun


_SUGGESTED = re.compile(
    r"(?<!on the coordinator run: )\bflctl (keys [a-z-]+|runs [a-z]+|status|alerts|audit|cordon|"
    r"uncordon)\b(?! --(state|context))"
)


def suggested(text: str, again: str) -> str:
    """`text`, with the options `again` in each command that it suggests for the same place."""
    return _SUGGESTED.sub(lambda found: f"{found[0]}{again}", text)


@contextmanager
def coordinator(state: Path, context: str | None) -> Iterator["RemoteRuns"]:
    """The one to ask."""
    from flctl.fleet.connecting import connect_coordinator

    with connect_coordinator(state, context) as runs:
        _show_waiting(runs)
        yield runs


@contextmanager
def connected(
    state: Path, context: str | None, run: str = "", beside: Path | None = None
) -> Iterator["LocalRuns | RemoteRuns"]:
    """When a remote coordinator is asked because it was connected, though there is a `beside` here
    that could be meant, a line on stderr says so."""
    from flctl.coordinator.store.runs import LocalRuns
    from flctl.fleet.connecting import connect
    from flctl.fleet.context import LOCAL

    with connect(state, context, run) as runs:
        if context is None and not runs.here and beside is not None and beside.exists():
            text = f"this is about the coordinator at {runs.where}; --context {LOCAL} is about"
            say(f"{text} {beside}", sys.stderr)
        if not isinstance(runs, LocalRuns):
            _show_waiting(runs)
        yield runs


def _show_waiting(runs: "RemoteRuns") -> None:
    runs.patience = lambda: waiting(f"waiting for the coordinator at {runs.where}", 1.0)
    runs.on_silent = warn


@contextmanager
def recorded(run: str, folder: Path, context: str | None) -> "Iterator[RecordedRun]":
    """The run of that name. Raises FlctlError."""
    from flctl.records.recorded import RecordedRun

    with connected(folder, context, run) as runs:
        about = runs.about(run)
        yield RecordedRun(about, runs.events(about["run"]), runs)


def summaries(runs: "LocalRuns | RemoteRuns") -> list[dict[str, Any]]:
    """Summaries of all runs; warns of unreadable ones. Raises StateError if none can be read."""
    found = runs.look()
    for fault in found.faults:
        warn(fault)
    if found.faults and not found.summaries:
        raise StateError(f"{runs.where}/runs: contains no readable run")
    return found.summaries


def details(runs: "LocalRuns | RemoteRuns", run: str) -> "tuple[dict[str, Any], list[AnyEvent]]":
    """Summary, settings and chain of a run, and all its events."""
    from flctl.coordinator.store.journal import shown_chain
    from flctl.core.chain import Chain

    chain = Chain()
    about = runs.about(run)
    events = list(runs.events(about["run"], chain))
    return {**about, "chain": shown_chain(chain)}, events
