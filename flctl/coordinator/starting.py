"""How the folder of a run comes to be, and how a run is taken up again."""

import hashlib
import os
import platform
import shlex
from importlib.metadata import version
from pathlib import Path

from flctl import __version__
from flctl.coordinator.evaluator import FirstModel
from flctl.coordinator.journal import Journal
from flctl.coordinator.runs import RunFolder
from flctl.core.history import History, Kind, Resumed, Started
from flctl.errors import StateError, UsageError
from flctl.files import explained, new_file, sync_folder
from flctl.settings import SCHEMA
from flctl.wire.messages import Digest


def machine() -> str:
    """Processor type and torch build: what the last bits of a result depend on."""
    return f"{platform.machine()} torch {version('torch')}"


def start_run(state: Path, first: FirstModel, kind: Kind, at: float) -> RunFolder:
    """A new run's folder with its settings, first model and the journal's first line.

    `at` is the time in seconds since 1970. Raises StateError, and then nothing is left of it.
    """
    folder = RunFolder.create(state, first.settings)
    with folder.removed_unless_made():
        _fill(folder, first, kind, at)
    return folder


def _fill(folder: RunFolder, first: FirstModel, kind: Kind, at: float) -> None:
    path = folder.model_path(0)
    with explained(path, "save the first model"):
        path.parent.mkdir()
        with new_file(path) as file:
            os.lseek(first.fd, 0, os.SEEK_SET)
            while data := os.read(first.fd, 1 << 20):
                file.write(data)
    journal = Journal(folder.journal_path)
    started = Started(
        at=at,
        schema=SCHEMA,
        run=folder.name,
        kind=kind,
        model=first.digest,
        size=first.size,
        task_digest=first.task_digest,
        version=__version__,
        machine=machine(),
        settings=_digest(folder),
    )
    journal.append([started])
    journal.close()
    with explained(folder.path, "start the run"):
        sync_folder(folder.path)
        sync_folder(folder.path.parent)


def expect_unchanged(folder: RunFolder, history: History) -> None:
    """That run.toml is the one that the run began with. Raises StateError."""
    begun = history.started.settings if history.started is not None else None
    if begun is not None and begun != _digest(folder):
        path = folder.path / "run.toml"
        raise StateError(
            f"{path}: has been changed since the run began; undo that, or begin a new run with "
            f"it: flctl train {shlex.quote(str(path))}"
        )


def _digest(folder: RunFolder) -> Digest:
    path = folder.path / "run.toml"
    with explained(path, "read the settings"):
        return hashlib.sha256(path.read_bytes()).hexdigest()


def take_up(folder: RunFolder, history: History, journal: Journal, at: float) -> None:
    """Note in the journal that the run goes on, unless it is only just beginning.

    Raises UsageError when there is nothing left to do, StateError when it cannot go on.
    """
    if history.state in ("finished", "failed"):
        raise UsageError(f"run {folder.name} is {history.state}; there is nothing to resume")
    expect_unchanged(folder, history)
    started = history.started
    if started is None or (
        history.state == "running" and not history.opened and not history.rounds
    ):
        return
    resumed = Resumed(at=at, reproducible=started.machine == machine())
    journal.append([resumed])
    history.apply(resumed)
