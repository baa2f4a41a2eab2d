"""Sizes and times of data files: enough to notice a change without reading them.

Needs no torch: the agent's light half looks too.
"""

import glob
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

Stamp: TypeAlias = dict[str, tuple[int, int]]
"""Size and time of change (ns) of each file."""


def stamp_of(path: Path | None, most: int | None = None) -> Stamp:
    """Stamp of a file and of its siblings with the same stem (a record has several), or of a folder
    with all below it; empty for None, or if there is nothing.

    `most` bounds the number of entries where a look must be short; the times of folders show even
    then that files came or went.
    """
    found: Stamp = {}
    if path is None:
        return found
    entries = _below(path) if path.is_dir() else _beside(path)
    for entry in entries:
        if most is not None and len(found) >= most:
            break
        try:
            status = entry.stat()
        except OSError:  # gone again
            continue
        found[str(entry)] = (status.st_size, status.st_mtime_ns)
    return found


def newest_ns(stamp: Stamp) -> int:
    """When something was changed last; 0 where there is nothing."""
    return max((changed for _, changed in stamp.values()), default=0)


def _below(folder: Path) -> Iterator[Path]:
    for at, _, names in os.walk(folder):
        yield Path(at)
        yield from (Path(at) / name for name in names)


def _beside(path: Path) -> Iterator[Path]:
    yield path
    yield from path.parent.glob(f"{glob.escape(path.stem)}.*")
