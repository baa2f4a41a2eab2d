"""Changes that an agent has not sent yet, kept on its disk because top-k needs them later:
residuals/RUN of an agent's folder holds those of the last two positions (`positions`)."""

import shutil
from pathlib import Path

import numpy as np

from flctl.files import explained, make_folder, new_file
from flctl.learning.positions import Positions
from flctl.wire.parameters import Array, ParameterFile, TensorSpec, check, dump


class Residuals:
    """Residuals of one agent in one run, in `folder`, which is made when needed."""

    def __init__(self, folder: Path) -> None:
        lost = "what was not sent before is lost, top-k starts from zero"
        self._kept = Positions(folder, "read what top-k has not sent", lost)
        self.path = self._kept.path

    def read(self, position: int, length: int) -> Array:
        """float32 [length] as it was when `position` batches were consumed; zeros before the
        first, and where it is lost (see `Positions`). Raises StateError."""
        spec = TensorSpec("residual", "F32", (length,))

        def tensor(file: ParameterFile) -> Array:
            check(file, (spec,))
            return file.read(spec)

        found = self._kept.read(position, tensor) if position else None
        return np.zeros(length, np.float32) if found is None else found

    def keep(self, position: int, residual: Array, before: int, durable: bool = True) -> None:
        """Store it for `position`; of the others, only that of `before` is kept. Unless `durable`,
        the caller syncs it.

        Raises StateError.
        """
        make_folder(self._kept.folder)
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
        self._kept.only(position, before)

    def packed(self, position: int) -> bytes | None:
        """The file for `position`, if there is one. Raises StateError."""
        path = self.path(position)
        with explained(path, "read what top-k has not sent"):
            return path.read_bytes() if path.exists() else None

    def unpack(self, position: int, data: bytes, before: int) -> None:
        """Store what `packed` gave elsewhere; the caller syncs it. Raises StateError."""
        make_folder(self._kept.folder)
        path = self.path(position)
        with explained(path, "keep what top-k has not sent"):
            beside = path.with_suffix(".tmp")
            beside.write_bytes(data)
            beside.replace(path)
        self._kept.only(position, before)

    def forget(self) -> None:
        shutil.rmtree(self._kept.folder, ignore_errors=True)
