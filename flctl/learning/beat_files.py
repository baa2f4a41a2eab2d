"""Heartbeats from files and folders of every kind that is known."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from flctl.errors import DataError, OtherData
from flctl.learning.beats import Beats
from flctl.learning.beats_csv import read_csv
from flctl.learning.beats_npz import read_npz
from flctl.learning.beats_wfdb import read_record
from flctl.learning.manifest import MANIFEST

logger = logging.getLogger(__name__)

TOLD_EVERY_S = 2.0
KEPT_BYTES = 256 * 1024**2
"""What is kept in memory of files that were read, because each agent of a simulated fleet
reads the same ones."""


class Reader(Protocol):
    def __call__(self, path: Path, labelled: bool = True) -> Beats: ...


READERS: dict[str, Reader] = {".npz": read_npz, ".csv": read_csv, ".hea": read_record}
"""By the suffix of the files that stand for one set of beats each."""
PARTS_OF_A_RECORD = (".dat", ".atr")

_kept: dict[tuple[object, ...], list[Beats]] = {}


def read_beats(
    path: Path, labelled: bool = True, clock: Callable[[], float] = time.monotonic
) -> list[Beats]:
    """The beats of a file, or of all files of a known type in a folder, sorted by name.

    Their class may be unknown unless `labelled`. Raises DataError of one line for whatever is
    wrong with them. A long list is told to the log every two seconds.
    """
    files = _files(path)
    key = (labelled, *((file, *_stamp(file)) for file in files))
    if key not in _kept:
        beats = list(_read(path, files, labelled, clock))
        _kept.clear()
        if sum(part.x.nbytes for part in beats) > KEPT_BYTES:
            return beats
        _kept[key] = beats
    return list(_kept[key])


def _read(
    path: Path, files: Sequence[Path], labelled: bool, clock: Callable[[], float]
) -> Iterator[Beats]:
    told = clock()
    for at, file in enumerate(files):
        if clock() - told >= TOLD_EVERY_S:
            logger.info("reading %s: %d of %d files", path, at, len(files))
            told = clock()
        yield READERS[file.suffix.lower()](file, labelled)


def _files(path: Path) -> list[Path]:
    """Of records their headers. Raises DataError when there is nothing to read."""
    if path.is_dir():
        there = sorted(file for file in path.iterdir() if file.is_file())
        files = [file for file in there if file.suffix.lower() in READERS]
        _check_signals(there)
        if not files:
            if (path / MANIFEST).exists():
                raise DataError(f"{path}: holds the shares of all agents; name one, such as "
                                f"{path / 'pi-01'}")  # fmt: skip
            raise OtherData(f"{path}: no heartbeat files in this folder ({_known_types()})")
        return files
    if not path.exists():
        raise DataError(f"{path}: there is no such file or folder")
    if path.suffix in PARTS_OF_A_RECORD:
        return [path.with_suffix(".hea")]
    if path.suffix.lower() not in READERS:
        raise OtherData(f"{path}: heartbeats are not read from such a file ({_known_types()})")
    return [path]


def _check_signals(there: Sequence[Path]) -> None:
    """Signals that no header names are of a record that is not whole. Raises DataError."""
    headers = [file for file in there if file.suffix == ".hea"]
    for file in there:
        if file.suffix != ".dat" or file.with_suffix(".hea") in headers:
            continue
        if not any(file.name.encode() in header.read_bytes() for header in headers):
            raise DataError(f"{file.parent}: record {file.stem}: there is no {file.stem}.hea")


def _stamp(file: Path) -> tuple[int, ...]:
    """What changes when the file does, or another part of its record."""
    parts = [file.with_suffix(suffix) for suffix in (file.suffix, *PARTS_OF_A_RECORD)]
    found = (part.stat() for part in parts if part.exists())
    return tuple(number for stat in found for number in (stat.st_size, stat.st_mtime_ns))


def _known_types() -> str:
    return ", ".join("*" + suffix for suffix in READERS)
