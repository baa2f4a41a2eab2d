"""Private tensors of an agent, which never leave its disk.

own/private/RUN of an agent's folder holds one file for each of the last few positions in its data.
A position says how many batches the committed rounds have consumed, and comes with every order, so
it also says which private tensors belong to the order: whatever is killed at whatever moment,
training begins from the same numbers again. Position 0 has no file: there they are what the task
makes of the run's seed.
"""

import contextlib
import logging
from pathlib import Path

from msgspec.structs import replace
from torch import Tensor

from flctl.errors import CheckpointError, ParametersError, SettingsError
from flctl.files import explained, make_folder, new_file, sync_folder
from flctl.learning.groups import Groups
from flctl.learning.state import load_state, opened, save_state
from flctl.learning.task import Task, initial_model
from flctl.settings import RunSettings
from flctl.wire.parameters import ParameterFile, check

logger = logging.getLogger(__name__)

KEPT = 4
"""Positions that stay: a run may go back by a round, and by more where its files were damaged."""
State = dict[str, Tensor]


class PrivateTensors:
    """Those of one agent in one run, in `folder`, which is made when needed."""

    def __init__(self, folder: Path, task: Task, groups: Groups) -> None:
        self._folder, self._task, self._groups = folder, task, groups

    def begin(self, position: int, seed: int) -> tuple[State, bool]:
        """As they were when `position` batches were consumed, and whether those are lost: then they
        are, with a warning, what the run of this seed began with.

        Raises StateError when the disk does not answer: what it holds may not be lost.
        """
        lost = False
        if not self._groups.private:
            return {}, lost
        if position:
            path = self._path(position)
            try:
                return self._read(path), False
            except (CheckpointError, ParametersError) as error:
                # Removed durably, so that a repeated order gives the same update.
                with explained(path, "read the private tensors"):
                    if path.exists():
                        path.unlink()
                        sync_folder(self._folder)
                logger.warning("position=%d private tensors are lost: %s", position, error)
                lost = True
        return self._groups.of_private(initial_model(self._task, seed).state_dict()), lost

    def file(self, position: int) -> Path | None:
        """The file of these, to measure a model; None for a model without any. Raises
        CheckpointError when it is not here."""
        path = self._path(position)
        if not self._groups.private:
            return None
        if not path.exists():
            raise CheckpointError("the private tensors of this agent are lost; it has them again "
                                  "after its next round")  # fmt: skip
        return path

    def keep(self, position: int, model: State, before: int) -> None:
        """Store those of `model` durably for `position`; those of `before`, and of a few positions
        before it, stay beside them. Raises StateError."""
        if not self._groups.private:
            return
        make_folder(self._folder)
        path = self._path(position)
        with explained(path, "keep the private tensors"), new_file(path, 0o600) as file:
            file.flush()
            save_state(file.fileno(), self._groups.of_private(model))
        older = sorted(p for p in files_in(self._folder) if p < self._path(before))
        wanted = {path, self._path(before), *older[-(KEPT - 2) :]}
        for other in set(self._folder.iterdir()) - wanted:
            with contextlib.suppress(OSError):
                other.unlink()

    def _read(self, path: Path) -> State:
        with opened(path) as file:
            check(ParameterFile(file.fileno(), str(path)), self._groups.private,
                  self._groups.buffers)  # fmt: skip
            return load_state(file.fileno(), str(path))

    def _path(self, position: int) -> Path:
        return self._folder / f"{position:012d}.safetensors"


def files_in(folder: Path) -> list[Path]:
    """The files of all positions, the last one last; none of a folder that is not there."""
    return sorted(folder.glob("[!.]*.safetensors"))


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
