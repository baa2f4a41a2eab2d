"""What an agent keeps on its disk for itself in a run: a file for each of the last few positions in
its data.

A position says how many batches the committed rounds have consumed, and comes with every order, so
it also says which file belongs to the order: whatever is killed at whatever moment, training begins
from the same numbers again.
"""

import contextlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from flctl.errors import ParametersError
from flctl.files import explained, sync_folder
from flctl.wire.parameters import ParameterFile

T = TypeVar("T")
logger = logging.getLogger(__name__)


class Positions:
    """In `folder`. Of a file that is not there, or damaged, a warning says what is `lost`."""

    def __init__(self, folder: Path, doing: str, lost: str) -> None:
        self.folder, self._doing, self._lost = folder, doing, lost

    def path(self, position: int) -> Path:
        return self.folder / f"{position:012d}.safetensors"

    def read(self, position: int, read: Callable[[ParameterFile], T]) -> T | None:
        """What `read` finds in the file; None when that is lost.

        Raises StateError when the disk does not answer: what it holds may not be lost.
        """
        path = self.path(position)
        with explained(path, self._doing):
            try:
                with path.open("rb") as file:
                    return read(ParameterFile(file.fileno(), str(path)))
            except (FileNotFoundError, ParametersError) as error:
                logger.warning("position=%d %s: %s", position, self._lost, error)
                if path.exists():  # removed durably, so that a repeated order gives the same update
                    path.unlink()
                    sync_folder(self.folder)
        return None

    def only(self, position: int, before: int, older: int = 0) -> None:
        """Remove all files but those of these two, and of so many positions before them."""
        least = self.path(before)
        there = sorted(path for path in files_in(self.folder) if path < least)
        wanted = {self.path(position), least, *there[max(0, len(there) - older) :]}
        for other in set(self.folder.iterdir()) - wanted:
            with contextlib.suppress(OSError):
                other.unlink()


def files_in(folder: Path) -> list[Path]:
    """The files of all positions, the last one last; none of a folder that is not there."""
    return sorted(folder.glob("[!.]*.safetensors"))
