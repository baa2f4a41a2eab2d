"""Windows that are cut already, in one file: the shares of `flctl data split`."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flctl.errors import DataError
from flctl.learning.examples import Examples
from flctl.learning.npz import load_arrays
from flctl.learning.series_args import SeriesArgs
from flctl.learning.stamps import stamp_of

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
    return _read(file, (*stamp_of(file).items(),))


@lru_cache(maxsize=1)
def _read(file: Path, _stamp: tuple[object, ...]) -> StoredWindows:
    """Once for all parts, and again when the file has changed."""
    names = StoredWindows.__annotations__
    found = load_arrays(file, [*names], names)
    x, kinds = found["x"], {name: array.dtype.kind for name, array in found.items()}
    shapes = {name: found[name].shape for name in ("y", "device", "part")}
    texts = [found[name] for name in ("columns", "classes", "learn")]
    if x.ndim != 3 or set(shapes.values()) != {(len(x),)} or kinds["x"] != "f":
        raise DataError(f"{file}: no windows of 'flctl data split': x {[*x.shape]}, {shapes}")
    if kinds["part"] not in "iu" or {each.dtype.kind for each in texts} != {"U"}:
        raise DataError(f"{file}: no windows of 'flctl data split': arrays of other types")
    columns, classes, learn = (np.atleast_1d(each).reshape(-1).tolist() for each in texts)
    if len(columns) != x.shape[1]:
        raise DataError(f"{file}: {x.shape[1]} columns, with {len(columns)} names")
    return StoredWindows(
        x=x.astype(np.float32, copy=False),
        y=found["y"],
        device=found["device"].astype(np.str_),
        part=found["part"].astype(np.uint8),
        columns=tuple(columns),
        classes=tuple(classes),
        learn=str(learn[0]),
    )
