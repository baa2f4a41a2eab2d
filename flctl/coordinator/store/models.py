"""A run's models and those that its agents have for themselves, without torch."""

from collections.abc import Sequence
from pathlib import Path

from flctl.coordinator.store.folder import RunFolder
from flctl.core.personal import unmatched
from flctl.errors import SettingsError
from flctl.files import explained
from flctl.wire.parameters import ParameterFile


def own_models_path(folder: RunFolder, agent: str) -> Path:
    """Folder of the own models of a virtual or local agent."""
    return folder.path / "personal" / agent


def check_tensors(path: Path, patterns: Sequence[str]) -> None:
    """Check that each pattern is of some parameter of the model. Raises SettingsError,
    ParametersError, StateError."""
    with explained(path, "read the model"), path.open("rb") as file:
        found = ParameterFile(file.fileno(), str(path))
        names = [spec.name for spec in found.specs if spec.name not in found.buffers]
    if problem := unmatched(patterns, names):
        raise SettingsError(problem)
