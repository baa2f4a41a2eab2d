"""Model files that a command leaves behind."""

import shutil
from pathlib import Path

from flctl.files import explained, new_file


def copy_model(checkpoint: Path, target: Path) -> None:
    """Copy a checkpoint to `target`, whole or not at all. Raises StateError."""
    with (
        explained(target, "save the model"),
        new_file(target) as out,
        checkpoint.open("rb") as model,
    ):
        shutil.copyfileobj(model, out)
