"""Names for the completion of the shell: what this machine knows first, fast, silent on errors."""

import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from flctl.fleet.console import RemoteRuns

BUDGET_S = 0.12
"""A coordinator that has not answered within this time is left out."""
ASKED = "_FLCTL_COMPLETE"
"""The shell sets this variable when it asks."""


def _completes(
    names: Callable[[dict[str, Any]], Iterable[str]],
) -> Callable[[typer.Context, str], list[str]]:
    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        with suppress(Exception):  # no completion is better than a traceback in the prompt
            return sorted({name for name in names(ctx.params) if name.startswith(incomplete)})
        return []

    return complete


@_completes
def runs(given: dict[str, Any]) -> Iterable[str]:
    here = [journal.parent.name for journal in _state(given).glob("runs/*/journal.jsonl")]
    return here or _asked(given, lambda console: (run["run"] for run in console.look().summaries))


@_completes
def agents(given: dict[str, Any]) -> Iterable[str]:
    import msgspec

    with suppress(OSError, msgspec.DecodeError):
        entries = msgspec.json.decode((_state(given) / "keys/allowed.json").read_bytes())["keys"]
        here = [each["name"] for each in entries if each["role"] in ("agent", "evaluate")]
        if here:
            return here
    return _asked(given, lambda console: (a["name"] for a in console.status()["agents"]))


@_completes
def labels(given: dict[str, Any]) -> Iterable[str]:
    return _asked(
        given, lambda console: (key for a in console.status()["agents"] for key in a["labels"])
    )


def _installed(group: str) -> Callable[[typer.Context, str], list[str]]:
    def names(_: dict[str, Any]) -> Iterable[str]:
        from importlib.metadata import entry_points

        return (entry.name for entry in entry_points(group=group))

    return _completes(names)


tasks, strategies = _installed("flctl.tasks"), _installed("flctl.strategies")


def choices(metavar: str | None) -> Callable[[typer.Context, str], list[str]] | None:
    """Those of a flag that takes one of "a|b"."""
    listed = (metavar or "").split("|")
    return _completes(lambda _: listed) if len(listed) > 1 and listed[0].islower() else None


@_completes
def contexts(given: dict[str, Any]) -> Iterable[str]:
    return [path.stem for path in _state(given).glob("contexts/*.json")] + ["local"]


def _state(given: dict[str, Any]) -> Path:
    from flctl.cli.options import Here

    state = given.get("state")
    return Here(None if state is None else Path(state)).folder


def _asked(
    given: dict[str, Any], question: Callable[["RemoteRuns"], Iterable[str]]
) -> Iterable[str]:
    """The coordinator's answer, if it comes in time. The process does not wait for a late one."""
    found: list[str] = []
    state = _state(given)
    if not (state / "coordinator.lock").exists() and not (state / "contexts").is_dir():
        return found  # no coordinator to ask: loading the client would take most of the time

    def ask() -> None:
        from flctl.fleet.connecting import connect_coordinator

        with suppress(Exception), connect_coordinator(state, given.get("context")) as console:
            found.extend(question(console))

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join(BUDGET_S)
    return found
