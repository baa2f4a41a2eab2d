"""Private tensors of an agent, which never leave its disk.

own/private/RUN of an agent's folder holds those of the last few positions (`positions`). Position 0
has no file: there they are what the task makes of the run's seed.
"""

from pathlib import Path

from msgspec.structs import replace
from torch import Tensor

from flctl.errors import CheckpointError, SettingsError
from flctl.files import explained, make_folder, new_file
from flctl.learning.groups import Groups
from flctl.learning.positions import Positions
from flctl.learning.state import save_state, tensors_of
from flctl.learning.task import Task, initial_model
from flctl.settings import RunSettings
from flctl.wire.parameters import ParameterFile, check

OLDER = 2
"""Positions that are kept in addition to the last two: a run may go back by a round, and by more
if its files were damaged."""
State = dict[str, Tensor]


class PrivateTensors:
    """Those of one agent in one run, in `folder`, which is made when needed."""

    def __init__(self, folder: Path, task: Task, groups: Groups) -> None:
        self._task, self._groups = task, groups
        self._kept = Positions(folder, "read the private tensors", "private tensors are lost")

    def begin(self, position: int, seed: int) -> tuple[State, bool]:
        """As they were when `position` batches were consumed, and whether those are lost: then they
        are what the run of this seed began with (see `Positions`). Raises StateError."""
        if not self._groups.private:
            return {}, False
        found = self._kept.read(position, self._tensors) if position else None
        if found is not None:
            return found, False
        first = initial_model(self._task, seed).state_dict()
        return self._groups.of_private(first), position > 0

    def file(self, position: int) -> Path | None:
        """The file of these, to measure a model; None for a model without any. Raises
        CheckpointError when it is not here."""
        if not self._groups.private:
            return None
        path = self._kept.path(position)
        if not path.exists():
            raise CheckpointError("the private tensors of this agent are lost; it has them again "
                                  "after its next round")  # fmt: skip
        return path

    def keep(self, position: int, model: State, before: int) -> None:
        """Store those of `model` durably for `position`; those of `before`, and of a few positions
        before it, are kept too. Raises StateError."""
        if not self._groups.private:
            return
        make_folder(self._kept.folder)
        path = self._kept.path(position)
        with explained(path, "keep the private tensors"), new_file(path, 0o600) as file:
            save_state(file.fileno(), self._groups.of_private(model))
        self._kept.only(position, before, OLDER)

    def _tensors(self, file: ParameterFile) -> State:
        check(file, self._groups.private, self._groups.buffers)
        return tensors_of(file)


def measured_by(task: Task, settings: RunSettings, where: str) -> RunSettings:
    """Without the private tensors of an agent there is no whole model: only agents measure one.

    Raises SettingsError where the coordinator should.
    """
    if not task.private:
        return settings
    if settings.personalise:
        raise SettingsError(
            f"{where}: personalise: each agent of task '{settings.task}' has a part of the model "
            "for itself already; leave it out"
        )
    if settings.evaluate in ("agents", "none"):
        return settings
    if settings.evaluate == "coordinator" or settings.test_data is not None:
        given = "evaluate = coordinator" if settings.test_data is None else "test_data"
        raise SettingsError(
            f"{where}: {given}: task '{settings.task}' keeps {', '.join(task.private)} private, so "
            "that only agents can measure its models; leave it out, or choose --evaluate agents"
        )
    return replace(settings, evaluate="agents")
