"""Files that a command leaves behind where its user wants them."""

import shutil
from pathlib import Path

from flctl.errors import StateError
from flctl.files import explained, new_file


def copy_model(checkpoint: Path, target: Path, option: str) -> None:
    """Copy a checkpoint to `target`, whole or not at all. Raises StateError."""
    try:
        with (
            explained(target, "save the model", option),
            new_file(target) as out,
            checkpoint.open("rb") as model,
        ):
            shutil.copyfileobj(model, out)
    except StateError as error:
        raise StateError(f"{error}; the run is done, its model is in {checkpoint}") from error
