"""Runs `flctl train` for agents of any kind, while a watcher shows the run."""

import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from msgspec import convert, to_builtins

from flctl.coordinator.store.folder import RunFolder, all_runs, fits
from flctl.coordinator.store.journal import chain_of, published, shown_chain
from flctl.core.events import Score
from flctl.core.stream import Published
from flctl.errors import CoordinatorAway, UsageError
from flctl.extras import needs_torch
from flctl.fleet import pages
from flctl.fleet.connecting import connect, connect_coordinator
from flctl.fleet.console import RemoteRuns
from flctl.fleet.driving import RunResult, drive_local, drive_remote, drive_virtual
from flctl.fleet.heads import Heads
from flctl.records.copies import copy_checkpoint, found_of
from flctl.terminal.checkpoints import copy_model, expect_task
from flctl.terminal.output import warn
from flctl.terminal.watching import Watcher


class TrainOrder(NamedTuple):
    state: Path
    context: str | None
    given: dict[str, Any]
    """The settings; of a resumed run, their changes."""
    where: str
    """Source of the settings, for errors."""
    resume: str | None
    task: str | None
    """As named on the command line."""
    target: Path | None
    """For a copy of the final model."""
    verbose: bool


def drive(order: TrainOrder, watching: Watcher) -> RunResult | None:
    """Until the run ends; None when only the watching was interrupted. Raises FlctlError."""
    kind = _kind(order)
    if kind == "fleet":
        if order.resume is not None and order.task is not None:
            raise UsageError("--resume with --task is for a run of agents on this machine")
        return _drive_fleet(order, watching)
    needs_torch("to train on this machine")
    if order.resume is not None:
        folder = RunFolder.find(order.state, order.resume)
        expect_task(folder, order.task)
        _warn_of_chain(str(folder.journal_path), chain_of(folder.journal_path))
        watching.recall(published(folder.journal_path))
        watching.expect(to_builtins(folder.settings()) | order.given)
    with watching:
        what = (order.state, order.given, order.where, watching.on_event, order.resume)
        result = drive_virtual(*what) if kind == "virtual" else drive_local(*what, order.verbose)
        done = result.checkpoint is not None and result.state == "finished"
        if order.target is not None and done:
            assert result.checkpoint is not None
            copy_model(result.checkpoint, order.target, "--save-model")
    return result


def _drive_fleet(order: TrainOrder, watching: Watcher) -> RunResult | None:
    resume = order.resume
    try:
        console = connect_coordinator(order.state, order.context, resume or "")
    except CoordinatorAway as error:
        if resume is not None:
            RunFolder.find(order.state, resume)  # whether there is such a run at all
            raise
        raise CoordinatorAway(
            f"{error}; or train on this machine alone with --local N or --virtual N"
        ) from error
    watching.embedded = False
    try:
        with console, watching:
            if resume is not None:
                about = console.about(resume)
                name = about["run"]
                kept = {key: about[key] for key in ("task", "rounds")}
                watching.expect(about["settings"] | kept | order.given)
                journal = f"the journal of run {name}"
                verdict = pages.verify(partial(console.journal, name), journal)
                _warn_of_chain(journal, shown_chain(verdict))
            heads = Heads(order.state)

            def on_event(told: Published) -> None:
                heads.on_event(told)
                watching.on_event(told)

            result = drive_remote(console, order.given, order.where, on_event, resume)
            if order.target is not None and result.state == "finished":
                _save_copy(console, result, order.target)
    except KeyboardInterrupt:
        return None
    except CoordinatorAway as error:
        run = watching.story.run
        if not run:
            raise
        raise CoordinatorAway(
            f"{error}; the run goes on when it is back: watch it with: {watching.resume(run)}"
        ) from error
    return result


def _save_copy(console: RemoteRuns, result: RunResult, target: Path) -> None:
    """The final model of a fleet's run."""
    with tempfile.TemporaryDirectory(prefix="flctl-model-") as folder:
        fetched = console.save_checkpoint(result.run, Path(folder) / "model.safetensors")
        score = convert(result.metrics, Score) if result.metrics else None
        copy_checkpoint(fetched, target, "--save-model", found_of(fetched, score))


def inputs(
    state: Path,
    file: Path | None,
    given: Mapping[str, Any],
    resume: str | None,
    context: str | None,
) -> Iterator[Path]:
    """The files that the run reads."""
    if file is not None:
        yield file
    folder = _found(state, context, resume) if resume is not None else None
    if folder is not None:
        settings = folder.settings()
        given = {"data": settings.data, "test_data": settings.test_data}
    for key in ("data", "test_data", "from_"):
        if given.get(key) is not None:
            yield Path(given[key])


def _warn_of_chain(journal: str, chain: Mapping[str, Any]) -> None:
    if chain.get("fault"):
        warn(f"{journal}: {chain['fault']}; the run continues after its last line")


def _kind(order: TrainOrder) -> str:
    """Kind of agents: local, virtual or fleet."""
    if order.resume is None:
        return next((kind for kind in ("local", "virtual") if order.given.get(kind)), "fleet")
    folder = _found(order.state, order.context, order.resume)
    if folder is None:
        return "fleet"
    started = folder.history(lean=True).started
    assert started is not None
    return started.kind


def _found(state: Path, context: str | None, run: str) -> RunFolder | None:
    """A run of this machine."""
    with connect(state, context, run) as runs:
        there = runs.here and any(fits(folder.name, run) for folder in all_runs(state))
    return RunFolder.find(state, run) if there else None
