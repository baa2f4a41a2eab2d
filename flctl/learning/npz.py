"""Arrays of an .npz file, which may be a stranger's: nothing is unpickled, no size is believed."""

import zipfile
import zlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from flctl.errors import DataError

LIMIT_BYTES = 2 * 1024**3
"""Of one array."""


def load_arrays(
    path: Path, names: Sequence[str], needed: Collection[str]
) -> dict[str, NDArray[Any]]:
    """Those of `names` that are in the file; all that are `needed`. Raises DataError."""
    try:
        with path.open("rb") as file:
            return _load(file, path, names, needed)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except zipfile.BadZipFile as error:
        raise DataError(f"{path}: not an .npz file, or a damaged one") from error
    except (ValueError, EOFError, KeyError, RuntimeError, MemoryError, zlib.error) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path}: an array in it cannot be read: {reason}") from error


def _load(
    file: IO[bytes], path: Path, names: Sequence[str], needed: Collection[str]
) -> dict[str, NDArray[Any]]:
    with zipfile.ZipFile(file) as archive:
        sizes = {info.filename: info.file_size for info in archive.infolist()}
    wanted = [name for name in names if f"{name}.npy" in sizes]
    for name in needed:
        if name not in wanted:
            raise DataError(f"{path}: there is no array '{name}' in it")
    for name in wanted:
        if sizes[f"{name}.npy"] > LIMIT_BYTES:
            raise DataError(f"{path}: array '{name}' is larger than {LIMIT_BYTES >> 30} GiB")
    file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in wanted}
