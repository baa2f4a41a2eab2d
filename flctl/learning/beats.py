"""Heartbeats from files: windows of 187 samples at 125 Hz with the R peak at sample 62.

Amplitudes are int16, 200 units = 1 mV with the baseline removed, as in the MIT-BIH
Arrhythmia Database; floats in the same unit are taken too.
"""

import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from flctl.errors import DataError

WINDOW = 187
UNITS_PER_MV = 200.0
LIMIT_BYTES = 2 * 1024**3
"""The most that an array of a file may take in memory."""
TRAIN, LATER, UNSEEN = 0, 1, 2
"""Values of `split`: for training, later beats of the same patients, patients never seen."""

Array = NDArray[Any]


@dataclass(frozen=True)
class Beats:
    """The beats of one file, n of them, in the order of the file."""

    x: Array
    """int16 or float32, shape (n, 187)."""
    y: NDArray[np.int64]
    """Shape (n,)."""
    record: NDArray[np.str_]
    """The patient or recording that each beat is of, shape (n,)."""
    split: NDArray[np.int64] | None
    """TRAIN, LATER or UNSEEN, shape (n,); None if the file does not say."""
    where: str


def read_beats(path: Path) -> list[Beats]:
    """The beats of a file, or of all files of a known type in a folder, sorted by name.

    Raises DataError of one line for whatever is wrong with them.
    """
    if not path.exists():
        raise DataError(f"{path}: there is no such file or folder")
    if not path.is_dir():
        return [_reader_of(path)(path)]
    files = sorted(file for file in path.iterdir() if file.suffix in READERS and file.is_file())
    if not files:
        raise DataError(f"{path}: no heartbeat files in this folder ({_known_types()})")
    return [_reader_of(file)(file) for file in files]


def read_npz(path: Path) -> Beats:
    """Arrays X and y; optional record (each beat's) and split; others are ignored."""
    try:
        with path.open("rb") as file:
            arrays = _load_arrays(file, path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    x, y = _checked_inputs(arrays, path)
    record, split = arrays.get("record"), arrays.get("split")
    for name, array in (("record", record), ("split", split)):
        if array is not None and array.shape != y.shape:
            raise DataError(f"{path}: {name} has shape {list(array.shape)}, y {list(y.shape)}")
    if split is not None and (split.dtype.kind not in "iu" or not np.isin(split, (0, 1, 2)).all()):
        raise DataError(f"{path}: split holds something else than 0, 1 and 2")
    if record is not None and record.dtype.kind not in "iuUS":
        raise DataError(f"{path}: record is of type {record.dtype}, not numbers or names")
    return Beats(
        x=x,
        y=y.astype(np.int64),
        record=np.full(len(y), path.stem) if record is None else record.astype(np.str_),
        split=None if split is None else split.astype(np.int64),
        where=str(path),
    )


READERS: dict[str, Callable[[Path], Beats]] = {".npz": read_npz}
"""By the file's suffix."""


def _reader_of(path: Path) -> Callable[[Path], Beats]:
    reader = READERS.get(path.suffix)
    if reader is None:
        raise DataError(f"{path}: heartbeats are not read from such a file ({_known_types()})")
    return reader


def _known_types() -> str:
    return ", ".join("*" + suffix for suffix in READERS)


def _load_arrays(file: IO[bytes], path: Path) -> dict[str, Array]:
    """The arrays of the archive that are used; never by unpickling."""
    try:
        with zipfile.ZipFile(file) as archive:
            sizes = {info.filename: info.file_size for info in archive.infolist()}
        for name in ("X", "y"):
            if f"{name}.npy" not in sizes:
                raise DataError(f"{path}: there is no array '{name}' in it")
        wanted = [name for name in ("X", "y", "record", "split") if f"{name}.npy" in sizes]
        for name in wanted:
            if sizes[f"{name}.npy"] > LIMIT_BYTES:
                raise DataError(f"{path}: array '{name}' is larger than {LIMIT_BYTES >> 30} GiB")
        file.seek(0)
        with np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in wanted}
    except zipfile.BadZipFile as error:
        raise DataError(f"{path}: not an .npz file, or a damaged one") from error
    except (ValueError, EOFError, KeyError, RuntimeError, MemoryError, zlib.error) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path}: an array in it cannot be read: {reason}") from error


def _checked_inputs(arrays: dict[str, Array], path: Path) -> tuple[Array, Array]:
    x, y = arrays["X"], arrays["y"]
    if x.ndim != 2 or x.shape[1] != WINDOW:
        raise DataError(f"{path}: X has shape {list(x.shape)}, beats have [n, {WINDOW}]")
    if x.dtype != np.int16 and x.dtype.kind != "f":
        raise DataError(f"{path}: X is of type {x.dtype}, not int16 or float")
    if y.dtype.kind not in "iu":
        raise DataError(f"{path}: y is of type {y.dtype}, not of an integer type")
    if y.shape != (len(x),):
        raise DataError(f"{path}: {len(x)} beats in X but y has shape {list(y.shape)}")
    if not len(y):
        raise DataError(f"{path}: no examples")
    if x.dtype.kind == "f":
        with np.errstate(over="ignore"):
            x = x.astype(np.float32)
    return x, y
