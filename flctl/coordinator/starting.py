"""How the folder of a run comes to be, and how a run is taken up again."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

from flctl import __version__
from flctl.coordinator.evaluator import FirstModel
from flctl.coordinator.journal import Journal
from flctl.coordinator.runs import RunFolder
from flctl.core.history import History, Kind, Resumed, Started
from flctl.errors import UsageError
from flctl.files import explained, new_file, sync_folder
from flctl.settings import SCHEMA


def machine() -> str:
    """Processor type and torch build: what the last bits of a result depend on."""
    return f"{platform.machine()} torch {version('torch')}"


def start_run(state: Path, first: FirstModel, kind: Kind, at: float) -> RunFolder:
    """A new run's folder with its settings, first model and the journal's first line.

    `at` is the time in seconds since 1970. Raises StateError.
    """
    folder = RunFolder.create(state, first.settings)
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
    )
    journal.append([started])
    journal.close()
    with explained(folder.path, "start the run"):
        sync_folder(folder.path)
        sync_folder(folder.path.parent)
    return folder


def take_up(folder: RunFolder, history: History, journal: Journal, at: float) -> None:
    """Note in the journal that the run goes on, unless it is only just beginning.

    Raises UsageError when there is nothing left to do.
    """
    if history.state in ("finished", "failed"):
        raise UsageError(f"run {folder.name} is {history.state}; there is nothing to resume")
    started = history.started
    if started is None or (
        history.state == "running" and not history.opened and not history.rounds
    ):
        return
    resumed = Resumed(at=at, reproducible=started.machine == machine())
    journal.append([resumed])
    history.apply(resumed)
