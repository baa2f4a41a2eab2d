"""The runs of a state folder, read from the disk: for its owner and for a coordinator's answers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import msgspec

from flctl.coordinator.store.folder import RunFolder, all_runs
from flctl.coordinator.store.journal import each_event
from flctl.core.chain import Chain
from flctl.core.events import AnyEvent
from flctl.errors import FlctlError, UsageError
from flctl.files import explained, page
from flctl.wire.messages import Digest


class KeptModel(NamedTuple):
    digest: Digest
    path: Path
    round: int
    frozen: Path | None = None
    """File with the tensors that do not train."""
    frozen_digest: Digest | None = None


class Found(NamedTuple):
    summaries: list[dict[str, Any]]
    faults: list[str]
    """What is wrong with the others, each in one line."""


class LocalRuns:
    """Each raises UsageError for an unknown run, StateError when the disk fails."""

    def __init__(self, state: Path) -> None:
        self.state, self.where = state, str(state)
        self.here = True

    def find(self, run: str) -> RunFolder:
        return RunFolder.find(self.state, run)

    def look(self) -> Found:
        """A summary of each run that can be read."""
        runs, found = self.state / "runs", Found([], [])
        with explained(runs, "list the runs"):
            there = list(runs.iterdir()) if runs.exists() or self.state.is_file() else []
        entries = [path for path in there if not path.name.startswith(".")]  # of runs in the making
        for path in entries:
            if not (path / "journal.jsonl").exists():
                text = f"{path}: not a run, or a damaged one: there is no journal.jsonl in it"
                found.faults.append(text)
        for folder in all_runs(self.state):
            try:
                found.summaries.append(summary(folder))
            except FlctlError as error:
                found.faults.append(str(error))
        return found

    def about(self, run: str) -> dict[str, Any]:
        """Summary and settings."""
        folder = self.find(run)
        return {**summary(folder), "settings": msgspec.to_builtins(folder.settings())}

    def events(self, run: str, chain: Chain | None = None) -> Iterator[AnyEvent]:
        """`chain` follows their lines."""
        return each_event(self.find(run).journal_path, chain)

    def journal(self, run: str, offset: int) -> bytes:
        """Its next bytes; none at its end."""
        return page(self.find(run).journal_path, offset)

    def model(self, run: str, round_id: int | None = None) -> KeptModel:
        """The newest one, or that of a round."""
        folder = self.find(run)
        history = folder.history(lean=True)
        number = history.round if round_id is None else round_id
        folder.verify_frozen(history)
        rest = None if history.started is None else history.started.frozen
        path = folder.kept_model(number, history)
        return KeptModel(history.model_of(number), path, number, folder.frozen, rest)

    def stop(self, run: str) -> str:
        found = self.find(run)
        if found.driven:
            raise UsageError(
                f"run {found.name} belongs to a 'flctl train' on this machine: stop that command"
            )
        raise UsageError(f"run {found.name} is not in progress")

    def pause(self, run: str) -> NoReturn:
        raise UsageError(
            f"run {self.find(run).name} has no coordinator that could pause or resume it: only a "
            "fleet's has"
        )

    resume = pause

    def __enter__(self) -> "LocalRuns":
        return self

    def __exit__(self, *_: object) -> None: ...


def summary(folder: RunFolder) -> dict[str, Any]:
    """One run as `flctl runs list --json` shows it. Raises StateError."""
    history = folder.history(lean=True)
    settings = folder.settings()
    assert history.started is not None
    state, reason = history.state, history.reason
    if state in ("running", "paused") and history.made_by:
        state, reason = "stopped", f"made by {history.made_by}; it can only be read"
    elif state == "running" and not folder.driven:
        if history.started.kind == "fleet":
            state, reason = "paused", "its coordinator is not running"
        else:
            state, reason = "stopped", "its process ended"
    last = history.rounds[-1] if history.rounds else None
    best = folder.best(history)
    return {
        "run": folder.name,
        "state": state,
        "reason": reason,
        "kind": history.started.kind,
        "task": settings.task,
        "round": history.round,
        "rounds": settings.rounds,
        "attempt": history.opened.attempt if history.opened else None,
        "accepted": sorted(history.accepted),
        "metrics": msgspec.to_builtins(last.metrics) if last and last.metrics else None,
        "checkpoint": str(folder.checkpoint(history)),
        "best": {"round": best[0], "checkpoint": str(best[1])} if best else None,
        "started": history.started.at,
        "updated": history.updated_at,
        "reproducible": history.reproducible,
    }
