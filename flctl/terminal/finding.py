"""Finds runs: in the state folder, or with the coordinator that has them."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flctl.errors import FlctlError, StateError
from flctl.terminal.output import say, warn
from flctl.terminal.patience import waiting

if TYPE_CHECKING:
    from flctl.core.history import AnyEvent
    from flctl.fleet.console import Console
    from flctl.records.recorded import RecordedRun


@contextmanager
def coordinator(state: Path, context: str | None) -> Iterator["Console"]:
    """The one to ask; at a terminal a person sees that its answer is awaited."""
    from flctl.fleet.console import open_console

    with open_console(state, context) as console:
        console.patience = lambda: waiting(f"waiting for the coordinator at {console.where}", 1.0)
        yield console


@contextmanager
def recorded(run: str, folder: Path, context: str | None) -> "Iterator[RecordedRun]":
    """The run of that name. Raises FlctlError."""
    from flctl.coordinator.store.folder import RunFolder
    from flctl.coordinator.store.journal import read_events
    from flctl.records.recorded import RecordedRun

    with far(folder, context, run) as console:
        if console is None:
            about = details(folder, run)[0]
            found = RunFolder.find(folder, run)
            yield RecordedRun(about, read_events(found.journal_path), found)
        else:
            about = console.about(run)
            yield RecordedRun(about, console.events(about["run"]), console)


@contextmanager
def far(
    state: Path, context: str | None, run: str = "", beside: Path | None = None
) -> Iterator["Console | None"]:
    """The coordinator to ask; None when what is asked for is in `state` (see `where_to_look`).

    When a far one is asked because it was connected, though there is a `beside` here that could
    be meant, a line on stderr says so.
    """
    from flctl.fleet.console import Place, where_to_look
    from flctl.fleet.context import LOCAL

    place = where_to_look(state, context, run)
    if place is Place.FOLDER:
        yield None
        return
    with coordinator(state, context) as console:
        if context is None and not isinstance(place, Place) and beside and beside.exists():
            text = f"this is about the coordinator at {console.where}; --context {LOCAL} is about"
            say(f"{text} {beside}", sys.stderr)
        yield console


def summaries(state: Path) -> list[dict[str, Any]]:
    from flctl.coordinator.store.folder import all_runs, summary
    from flctl.files import explained

    found, runs = [], state / "runs"
    with explained(runs, "list the runs"):
        there = list(runs.iterdir()) if runs.exists() or state.is_file() else []
    entries = [path for path in there if not path.name.startswith(".")]  # of runs in the making
    for path in entries:
        if not (path / "journal.jsonl").exists():
            warn(f"{path}: not a run, or a damaged one: there is no journal.jsonl in it")
    for folder in all_runs(state):
        try:
            found.append(summary(folder))
        except FlctlError as error:
            warn(str(error))
    if entries and not found:
        raise StateError(f"{runs}: no run in it can be read")
    return found


def details(
    state: Path, run: str, console: "Console | None" = None
) -> "tuple[dict[str, Any], list[AnyEvent]]":
    """Summary, settings and chain of a run, here or with its coordinator, and all its events."""
    import msgspec

    from flctl.coordinator.store.folder import RunFolder, summary
    from flctl.coordinator.store.journal import chain_of, read_events, shown_chain
    from flctl.core.chain import Chain

    if console is not None:
        about, chain = console.about(run), Chain()
        events = list(console.events(about["run"], chain))
        return {**about, "chain": shown_chain(chain.verdict())}, events
    folder = RunFolder.find(state, run)
    settings = msgspec.to_builtins(folder.settings())
    about = {**summary(folder), "settings": settings, "chain": chain_of(folder.journal_path)}
    return about, read_events(folder.journal_path)
