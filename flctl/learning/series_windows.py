"""Windows that are cut already, in one file: the shares of `flctl data split`."""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flctl.errors import DataError, one_line
from flctl.learning.examples import Examples
from flctl.learning.series_args import SeriesArgs

STORED = "windows.npz"


@dataclass(frozen=True)
class StoredWindows:
    x: NDArray[np.float32]
    y: NDArray[Any]
    device: NDArray[np.str_]
    part: NDArray[np.uint8]
    columns: tuple[str, ...]
    classes: tuple[str, ...]
    learn: str


def write_stored(
    folder: Path, args: SeriesArgs, classes: Sequence[str], parts: Sequence[tuple[int, Examples]]
) -> None:
    """Not packed: the same bytes whatever zlib is installed."""
    groups = [part.group for _, part in parts]
    np.savez(
        folder / STORED,
        allow_pickle=False,
        x=np.concatenate([part.array for _, part in parts]),
        y=np.concatenate([part.targets for _, part in parts]),
        device=np.concatenate([group for group in groups if group is not None]),
        part=np.concatenate([np.full(len(part), number, np.uint8) for number, part in parts]),
        columns=np.array(args.columns),
        classes=np.array(classes, dtype=np.str_),
        learn=np.array(args.learn),
    )


def read_stored(path: Path | None) -> StoredWindows | None:
    """None where there is no such file. Raises DataError."""
    file = None if path is None else path if path.name == STORED else path / STORED
    if file is None or not file.is_file():
        return None
    try:
        with np.load(file, allow_pickle=False) as arrays:
            found = StoredWindows(
                arrays["x"].astype(np.float32),
                arrays["y"],
                arrays["device"].astype(np.str_),
                arrays["part"].astype(np.uint8),
                tuple(map(str, arrays["columns"].tolist())),
                tuple(map(str, arrays["classes"].tolist())),
                str(arrays["learn"]),
            )
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise DataError(f"{file}: no windows of 'flctl data split': {one_line(error)}") from error
    n = len(found.x) if found.x.ndim == 3 else -1
    if {len(found.y), len(found.device), len(found.part)} != {n}:
        raise DataError(f"{file}: no windows of 'flctl data split': arrays of different lengths")
    return found
