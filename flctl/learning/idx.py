"""The IDX files of MNIST and FashionMNIST; torchvision is needed for the download alone."""

import fcntl
import gzip
import math
import re
import socket
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from platformdirs import user_cache_path

from flctl.errors import DataError, OtherData, one_line
from flctl.learning.vision import import_torchvision

Part = Literal["train", "t10k"]
Array = NDArray[Any]
Values = NDArray[np.uint8]

LAYOUTS = (".", "MNIST/raw", "FashionMNIST/raw")
"""Where the files may lie in a folder: in itself, or as torchvision lays them out."""
FILES = (
    "train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and "
    "t10k-labels-idx1-ubyte, plain or .gz"
)
UNSIGNED_BYTES = 8
"""Code of the elements' type in a file's header."""
LIMIT_BYTES = 1024**3
"""The most that one file may unpack to."""
PATIENCE_S = 20.0
"""For a silent server, when MNIST is downloaded."""


def find_folder(path: Path) -> Path:
    """The folder at or under `path` that holds IDX files. Raises DataError."""
    if path.is_file():
        raise OtherData(f"{path}: is a file; name the folder that holds {FILES}")
    if not path.is_dir():
        raise DataError(f"{path}: there is no such folder")
    for layout in LAYOUTS:
        folder = path / layout
        if has_part(folder, "train") or has_part(folder, "t10k"):
            return folder
    raise OtherData(f"{path}: no IDX files ({FILES}) in this folder")


def has_part(folder: Path, part: Part) -> bool:
    return any(file.exists() for file in _candidates(folder, f"{part}-images-idx3-ubyte"))


def read_part(folder: Path, part: Part) -> tuple[Values, Values]:
    """Images of shape (n, height, width) and labels. Raises DataError."""
    images = _read(folder, f"{part}-images-idx3-ubyte", 3)
    labels = _read(folder, f"{part}-labels-idx1-ubyte", 1)
    return images, labels


def read_images(file: Path) -> Values:
    """The images of one file, as `read_part` has them. Raises DataError."""
    return _read_file(file, 3)


def write_part(folder: Path, part: Part, images: Array, labels: Array) -> None:
    """What `read_part` reads; values 0 to 255. Plain files, so that a Pi need not unpack them."""
    for name, values in (("images-idx3", images), ("labels-idx1", labels)):
        array = values.astype(np.uint8)
        sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
        header = bytes([0, 0, UNSIGNED_BYTES, array.ndim]) + sizes
        (folder / f"{part}-{name}-ubyte").write_bytes(header + array.tobytes())


def downloaded() -> Path:
    """The folder with torchvision's own download of MNIST, in this user's cache.

    Raises DataError when it is not there and cannot be had.
    """
    root = _cache()
    datasets = import_torchvision().datasets
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _alone(root / "lock"), _patience(PATIENCE_S):
            return Path(datasets.MNIST(root, download=True).raw_folder)
    except (OSError, RuntimeError) as error:
        # torchvision lists every server that it has tried.
        text = " ".join(str(error).split())
        cause = re.search(r"<urlopen error (?:\[[^]]*\] )?([^>]*)>", text)
        raise DataError(
            f"MNIST cannot be downloaded ({cause[1] if cause else one_line(text, 100)}); "
            "name a folder with its IDX files with --data"
        ) from error


def is_downloaded() -> bool:
    return has_part(_cache() / "MNIST" / "raw", "train")


def _cache() -> Path:
    return user_cache_path("flctl") / "torchvision"


def _candidates(folder: Path, name: str) -> tuple[Path, Path]:
    return folder / name, folder / f"{name}.gz"


def _read(folder: Path, name: str, axes: int) -> Values:
    file = next((f for f in _candidates(folder, name) if f.exists()), None)
    if file is None:
        use = "for testing" if name.startswith("t10k") else "for training"
        raise DataError(f"{folder}: the file {name} (or {name}.gz) {use} is missing")
    return _read_file(file, axes)


def _read_file(file: Path, axes: int) -> Values:
    """Two zero bytes, the type, the number of axes, each one's size, and then the values."""
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as source:
            data = source.read(LIMIT_BYTES + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise DataError(f"{file}: damaged, or not an IDX file of this kind") from None
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror or error}") from error
    if len(data) > LIMIT_BYTES:
        raise DataError(f"{file}: unpacks to more than {LIMIT_BYTES >> 30} GiB")
    values = 4 + 4 * axes
    shape = [int.from_bytes(data[at : at + 4], "big") for at in range(4, values, 4)]
    if data[:4] != bytes([0, 0, UNSIGNED_BYTES, axes]) or len(data) != values + math.prod(shape):
        raise DataError(f"{file}: damaged, or not an IDX file of this kind")
    return np.frombuffer(data, np.uint8, offset=values).reshape(shape)


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Local agents start together; only one of them downloads."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _patience(seconds: float) -> Iterator[None]:
    before: Any = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
