"""The installed tasks, each with what is wrong with it, and what an agent here enables."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from flctl.errors import TaskError
from flctl.learning.registry import Installed, installed_tasks, source_file, task_digest
from flctl.learning.task import load_task
from flctl.wire.messages import Digest


class Listed(Struct, frozen=True):
    task: Installed
    file: Path | None
    """The module's file; None if it has none."""
    digest: Digest | None
    problem: str | None
    """Why it cannot be used."""
    enabled: bool
    """Whether a coordinator may ask for it."""
    note: str | None = None

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "name": self.task.name,
            "class": self.task.ref,
            "file": None if self.file is None else str(self.file),
            "package": self.task.package,
            "version": self.task.version,
            "digest": self.digest,
            "enabled": self.enabled,
            "problem": self.problem,
            "note": self.note,
        }


def catalogue(agent: Mapping[str, Digest] | None) -> list[Listed]:
    """All installed tasks, by name. They are imported: nothing else shows whether they work.

    `agent` are the tasks of an agent as it was started last; None: of one that is started
    without naming any, which are all that are whole.
    """
    return [_look(task, agent) for task in installed_tasks()]


def _look(task: Installed, agent: Mapping[str, Digest] | None) -> Listed:
    file = digest = problem = note = None
    try:
        file, digest = source_file(task.name), task_digest(task.name)
        load_task(task.name)
    except TaskError as error:
        problem = str(error)
    enabled = problem is None if agent is None else task.name in agent
    if agent is not None and enabled and agent[task.name] != digest:
        note = f"its agent still has {agent[task.name][:12]}: start it again"
    return Listed(task, file, digest, problem, enabled, note)
