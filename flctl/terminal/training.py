"""Runs `flctl train` for agents of any kind, while a watcher shows the run."""

import shlex
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from msgspec import convert, to_builtins

from flctl.coordinator.store.folder import RunFolder, all_runs
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
from flctl.learning.registry import check_ref
from flctl.outputs import writable
from flctl.records.copies import copy_checkpoint, found_of
from flctl.terminal.checkpoints import copy_model, expect_task
from flctl.terminal.output import hint, warn
from flctl.terminal.watching import Watcher, watcher
from flctl.values import names_run


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
    file: Path | None
    """The file with settings, if there is one."""
    target: Path | None
    """For a copy of the final model."""
    verbose: bool


def carry_out(order: TrainOrder, json: bool, again: str, tensorboard: Path | None) -> bool:
    """Train and show it; whether it ended well. `again`: options of a suggested command.

    Raises FlctlError.
    """
    if order.given.get("local") or order.given.get("virtual"):
        check_ref(order.given["task"])  # torch need not be loaded to find the task
    if order.target is not None:
        order = order._replace(target=writable(order.target, "--save-model", _inputs(order)))
    watching = watcher(json, order.verbose)
    watching.expect(order.given)
    watching.again, watching.target = again, order.target
    with _followed(tensorboard, watching):
        result = _drive(order, watching)
    return result is None or watching.finish(result, order.target)


@contextmanager
def _followed(folder: Path | None, watching: Watcher) -> Iterator[None]:
    """Write the events of the run for TensorBoard too, if `folder` is given."""
    if folder is None:
        yield
        return
    from flctl.records.tensorboard import Follower, needs_tensorboard

    needs_tensorboard()
    with closing(Follower(folder.expanduser().absolute())) as follower:
        watching.also = follower.on_event
        yield
    hint(f"view it with: tensorboard --logdir {shlex.quote(str(folder))}")


def _drive(order: TrainOrder, watching: Watcher) -> RunResult | None:
    """Until the run ends; None when only the watching was interrupted. Raises FlctlError."""
    kind = _kind(order)
    if kind == "fleet":
        if order.resume is not None and order.task is not None:
            raise UsageError("--resume with --task works only for a run on this machine")
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
    watching.embedded, console.on_silent = False, warn
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
            f"{error}; the run continues when it is back; watch it with: {watching.resume(run)}"
        ) from error
    return result


def _save_copy(console: RemoteRuns, result: RunResult, target: Path) -> None:
    """The final model of a fleet's run."""
    with tempfile.TemporaryDirectory(prefix="flctl-model-") as folder:
        fetched = console.save_checkpoint(result.run, Path(folder) / "model.safetensors")
        score = convert(result.metrics, Score) if result.metrics else None
        copy_checkpoint(fetched, target, "--save-model", found_of(fetched, score))


def _inputs(order: TrainOrder) -> Iterator[Path]:
    """The files that the run reads."""
    if order.file is not None:
        yield order.file
    given: Mapping[str, Any] = order.given
    if order.resume is not None and (folder := _found(order)) is not None:
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
    folder = _found(order)
    if folder is None:
        return "fleet"
    started = folder.history(lean=True).started
    assert started is not None
    return started.kind


def _found(order: TrainOrder) -> RunFolder | None:
    """The run to resume, if it is one of this machine."""
    run = order.resume or ""
    with connect(order.state, order.context, run) as runs:
        there = runs.here and any(names_run(run, folder.name) for folder in all_runs(order.state))
    return RunFolder.find(order.state, run) if there else None
