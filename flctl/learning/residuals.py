"""Changes that an agent has not sent yet, kept on its disk because top-k needs them later.

runs/RUN of an agent's folder holds one file for each of the last two positions in its
data. A position says how many batches the committed rounds have consumed, and comes with
every order to train, so it also says which residual belongs to the order: whatever is
killed at whatever moment, training begins from the same numbers again.
"""

import contextlib
import logging
from pathlib import Path

import numpy as np

from flctl.errors import ParametersError
from flctl.files import explained, make_folder, new_file, sync_folder
from flctl.wire.parameters import Array, ParameterFile, TensorSpec, check, dump

logger = logging.getLogger(__name__)


class Residuals:
    """Residuals of one agent in one run, in `folder`, which is made when needed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, position: int, length: int) -> Array:
        """float32 [length] as it was when `position` batches were consumed; zeros before the
        first, and, with a warning, when it is lost or damaged.

        Raises StateError when the disk does not answer: what it holds may not be lost.
        """
        if position:
            try:
                return self._read(position, length)
            except (OSError, ParametersError) as error:
                # Removed durably, so that a repeated order gives the same update.
                with explained(self.path(position), "read what top-k has not sent"):
                    if self.path(position).exists():
                        self.path(position).unlink()
                        sync_folder(self._folder)
                logger.warning(
                    "position=%d what was not sent before is lost, top-k starts from zero: %s",
                    position,
                    error,
                )
        return np.zeros(length, np.float32)

    def keep(self, position: int, residual: Array, before: int, durable: bool = True) -> None:
        """Store it for `position`; only that of `before` stays beside it. Unless `durable`, the
        caller syncs it.

        Raises StateError.
        """
        make_folder(self._folder)
        path = self.path(position)
        tensors = {"residual": ("F32", residual)}
        with explained(path, "keep what top-k has not sent"):
            if durable:
                with new_file(path, 0o600) as file:
                    dump(file.fileno(), tensors)
            else:
                beside = path.with_suffix(".tmp")
                with beside.open("wb", buffering=0) as file:
                    dump(file.fileno(), tensors)
                beside.replace(path)
        wanted = {path, self.path(before)}
        for other in set(self._folder.iterdir()) - wanted:
            with contextlib.suppress(OSError):
                other.unlink()

    def _read(self, position: int, length: int) -> Array:
        path = self.path(position)
        with path.open("rb") as opened:
            file = ParameterFile(opened.fileno(), str(path))
            spec = TensorSpec("residual", "F32", (length,))
            check(file, (spec,))
            return file.read(spec)

    def path(self, position: int) -> Path:
        return self._folder / f"{position:012d}.safetensors"
