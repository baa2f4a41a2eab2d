"""Heartbeats from files and folders of every kind that is known."""

import glob
import logging
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from msgspec.structs import replace

from flctl.errors import DataError, NothingToUse, OtherData, one_line
from flctl.files import absent
from flctl.learning.beats import WINDOW, Beats
from flctl.learning.beats_csv import read_csv
from flctl.learning.beats_npz import read_npz
from flctl.learning.beats_wfdb import read_record
from flctl.learning.manifest import MANIFEST
from flctl.learning.origin import AS_IT_IS, Origin, ReadAs, from_environment
from flctl.learning.wfdb_headers import segments_of

logger = logging.getLogger(__name__)

LINE_BYTES = 8192
TOLD_EVERY_S = 2.0
KEPT_BYTES = 256 * 1024**2
"""Size of the cache of files: each agent of a simulated fleet reads the same ones."""


class Reader(Protocol):
    def __call__(self, path: Path, labelled: bool = True, read_as: ReadAs = AS_IT_IS) -> Beats: ...


READERS: dict[str, Reader] = {".npz": read_npz, ".csv": read_csv, ".hea": read_record}
"""By the suffix of the files that stand for one set of beats each."""
LIKE_DATA = frozenset(
    (
        ".gz",
        ".bz2",
        ".xz",
        ".zip",
        ".tsv",
        ".tab",
        ".xlsx",
        ".xls",
        ".parquet",
        ".npy",
        ".edf",
    )
)
"""Suffixes of what a person may believe to be read."""


@dataclass(frozen=True)
class BeatFiles:
    beats: list[Beats]
    """Beats of each file that has any."""
    origins: list[Origin]
    """Origins of all files."""


_kept: dict[tuple[object, ...], BeatFiles] = {}


def read_beats(
    path: Path, labelled: bool = True, clock: Callable[[], float] = time.monotonic
) -> list[Beats]:
    """The beats of `read_files`."""
    return list(read_files(path, labelled, clock=clock).beats)


def read_files(
    path: Path,
    labelled: bool = True,
    read_as: ReadAs | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> BeatFiles:
    """The beats of a file, or of all files of a known type in a folder, sorted by name.

    Their class may be unknown unless `labelled`. Of a folder files without anything to use are
    left out as long as there are others. Raises DataError of one line for whatever else is wrong.
    For many files, progress is logged every two seconds.
    """
    files, read_as = _files(path, from_environment() if read_as is None else read_as)
    key = (labelled, read_as, *((file, *_stamp(file)) for file in files))
    if key not in _kept:
        found = _read(path, files, labelled, read_as, clock)
        _kept.clear()
        if sum(part.x.nbytes for part in found.beats) > KEPT_BYTES:
            return found
        _kept[key] = found
    return _kept[key]


def _read(
    path: Path, files: Sequence[Path], labelled: bool, read_as: ReadAs, clock: Callable[[], float]
) -> BeatFiles:
    told = clock()
    beats: list[Beats] = []
    origins: list[Origin] = []
    for at, file in enumerate(files):
        if clock() - told >= TOLD_EVERY_S:
            logger.info("reading %s: %d of %d files", path, at, len(files))
            told = clock()
        try:
            options = {} if read_as == AS_IT_IS else {"read_as": read_as}
            beats.append(READERS[file.suffix.lower()](file, labelled, **options))
            origins.append(beats[-1].origin)
        except NothingToUse as error:
            if len(files) == 1:
                raise
            origins.append(Origin(file=str(file), problem=str(error).removeprefix(f"{path}: ")))
    if not beats:
        raise DataError(f"{path}: none of its {len(files)} files can be used: {origins[0].problem}")
    return BeatFiles(beats, origins + _not_read(path))


def _files(path: Path, read_as: ReadAs) -> tuple[list[Path], ReadAs]:
    """Files to read; for records, their headers. Raises DataError when there is nothing to read."""
    there = sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]
    if capitals := [file for file in there if re.fullmatch(r"\.(?!hea)(?i:hea)", file.suffix)]:
        raise DataError(f"{capitals[0]}: rename the files of this record to small letters "
                        "(.hea, .dat, .atr), as its header names them")  # fmt: skip
    if path.is_dir():
        files = [file for file in there if file.suffix.lower() in READERS and not _hidden(file)]
        _check_signals(there)
        if not files:
            if (path / MANIFEST).exists():
                raise DataError(f"{path}: holds the shares of all agents; name one, such as "
                                f"{path / 'pi-01'}")  # fmt: skip
            raise OtherData(f"{path}: no heartbeat files in this folder ({_known_types()})")
        headers = [file for file in files if file.suffix == ".hea"]
        parts = {segment for file in headers for segment in segments_of(file)}
        whole = [file for file in files if file.suffix != ".hea" or file.stem not in parts]
        return whole, read_as
    if not path.exists():
        raise DataError(f"{path}: {absent(path)}")
    if not path.is_file():  # a pipe would be waited for, a device never ends
        raise OtherData(f"{path}: is neither a file nor a folder")
    if path.suffix.lower() in READERS:
        return [path], read_as
    if path.suffix == ".dat" or (path.suffix and path.with_suffix(".hea").exists()):
        if path.suffix != ".dat" and read_as.annotator is None:
            read_as = replace(read_as, annotator=path.suffix[1:])
        return [path.with_suffix(".hea")], read_as
    if path.suffix == ".atr":
        return [path.with_suffix(".hea")], read_as
    raise OtherData(f"{path}: heartbeats are not read from such a file ({_known_types()})")


def _hidden(file: Path) -> bool:
    """Whether the file is hidden, like the ._a.csv that a Mac leaves next to a.csv."""
    return file.name.startswith(".")


def _not_read(path: Path) -> list[Origin]:
    """Origins of files in a folder that look like data but are of no readable kind."""
    if not path.is_dir():
        return []
    names = sorted(
        file.name for file in path.iterdir() if file.is_file() and _looks_like_data(file)
    )
    if not names:
        return []
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    problem = f"{one_line(', '.join(names[:5]), 200)}{more}: only {_known_types()} are read"
    return [Origin(file=str(path), problem=problem)]


def _looks_like_data(file: Path) -> bool:
    suffix = file.suffix.lower()
    if suffix == ".txt":  # a table, or a word about the others
        with file.open("rb") as opened:
            return len(re.split(rb"[\s,;|]+", opened.readline(LINE_BYTES))) > WINDOW // 2
    return suffix in LIKE_DATA or (_hidden(file) and suffix in READERS)


def _check_signals(there: Sequence[Path]) -> None:
    """Signals that no header names are of a record that is not whole. Raises DataError."""
    headers = [file for file in there if file.suffix == ".hea"]
    for file in there:
        if file.suffix != ".dat" or file.with_suffix(".hea") in headers:
            continue
        if not any(file.name.encode() in header.read_bytes() for header in headers):
            raise DataError(f"{file.parent}: record {file.stem}: there is no {file.stem}.hea")


def _stamp(file: Path) -> tuple[object, ...]:
    """What changes when the file does, or another part of its record."""
    parts = [file]
    if file.suffix == ".hea" and file.exists():
        parts += sorted(file.parent.glob(f"{glob.escape(file.stem)}.*"))
        for segment in segments_of(file):
            parts += sorted(file.parent.glob(f"{glob.escape(segment)}.*"))
    found = ((part.name, part.stat()) for part in parts if part.exists())
    return tuple(what for name, stat in found for what in (name, stat.st_size, stat.st_mtime_ns))


def _known_types() -> str:
    return ", ".join("*" + suffix for suffix in READERS)
