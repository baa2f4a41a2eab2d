"""Files that a command leaves where its user wants them."""

import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from flctl.errors import UsageError
from flctl.files import explained, new_file, place_of


def writable(path: Path, option: str, inputs: Iterable[Path] = ()) -> Path:
    """`path` as a place for a file, absolute; `inputs` are not to be lost by it.

    Raises UsageError now rather than at the end.
    """
    target = path.expanduser().absolute()
    if target.is_dir():
        raise UsageError(f"{option} {path}: is a folder; name a file in it")
    try:
        place = place_of(target)
        with tempfile.TemporaryFile(dir=place.parent):
            pass
        overwritten = place.exists() and any(place.samefile(i) for i in inputs if i.exists())
    except UsageError as error:
        raise UsageError(f"{option} {error}") from error
    except OSError as error:
        raise UsageError(
            f"{option} {path}: cannot write into {target.parent}: {error.strerror}"
        ) from error
    if overwritten:
        raise UsageError(
            f"{option} {path}: is an input, and would be overwritten; name another one"
        )
    return target


def copy_file(source: Path, target: Path, doing: str, option: str) -> None:
    """Copy `source` to `target`, whole or not at all. Raises StateError."""
    with explained(target, doing, option), new_file(target) as out, source.open("rb") as file:
        shutil.copyfileobj(file, out)
