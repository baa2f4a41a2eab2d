"""What each agent of a local or virtual run holds out, divided as in the run."""

from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from flctl.coordinator.store.folder import RunFolder
from flctl.formats import few
from flctl.learning.examples import Examples
from flctl.learning.source import deal_held_out
from flctl.learning.task import Task
from flctl.settings import RunSettings, agent_names, normalised, parse
from flctl.worker.jobs import shards_of

DIVIDE = "add --agents N to measure the model on what each of N agents would hold out"
OwnData: TypeAlias = tuple[Mapping[str, Examples], str]
"""What each agent evaluates on, and a line about those that lack it; may be empty."""


def run_of(checkpoint: Path) -> RunFolder | None:
    """The run in whose folder the checkpoint is."""
    found = (RunFolder(folder) for folder in checkpoint.resolve().parents[:3])
    return next((folder for folder in found if folder.journal_path.is_file()), None)


def data_of_run(checkpoint: Path, *keys: str) -> Path | None:
    """The first path of these settings that is here, of the run in whose folder it is."""
    settings = None if (run := run_of(checkpoint)) is None else run.settings()
    named = (getattr(settings, key, None) for key in keys)
    return next((Path(path) for path in named if path and Path(path).exists()), None)


def own_of_run(task: Task, checkpoint: Path, data: Path | None) -> OwnData:
    """Of the run in whose folder the checkpoint is, if its data are here, and are `data` where
    those are named. Raises DataError."""
    if (run := run_of(checkpoint)) is None:
        return {}, DIVIDE
    settings = run.settings()
    if data is not None and not (settings.data and data.resolve() == Path(settings.data)):
        return {}, DIVIDE
    if not (settings.local or settings.virtual):
        return {}, f"figures of each agent on its own: flctl runs show {run.name}"
    return _own(task, settings)


def own_of(task: Task, ref: str, data: Path | None, agents: int) -> OwnData:
    """Of so many agents, with the data divided as in the task's settings. Raises SettingsError,
    DataError."""
    where = f"--agents {agents}"
    given = {"task": ref, "virtual": agents, "data": None if data is None else str(data)}
    defaults = normalised(task.defaults, f"the defaults of task '{ref}'")
    return _own(task, parse({**defaults, **normalised(given, where)}, where))


def _own(task: Task, settings: RunSettings) -> OwnData:
    path = None if settings.data is None else Path(settings.data)
    owners = dict(enumerate(agent_names(settings.virtual or settings.local or 1)))
    parts = deal_held_out(task, path, shards_of(settings)[0], owners)
    without = [name for name in owners.values() if name not in parts]
    return parts, f"no test data of their own: {few(without)}" if without else ""
