"""Folders that take their place as a whole."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from flctl.files import sync_folder

RANDOM = "?" * 8
"""What `tempfile` puts into a name."""


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """An empty folder that takes the place of `path`, and of a folder there, when the block
    ends well; however else it ends, nothing is left of it and the old folder is as it was. What
    kill -9 leaves, the next one in the same parent clears.

    The caller makes what it writes into it durable.
    """
    import tempfile  # brings hashlib and random along, which few commands need

    _clear(path.parent)
    beside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    new, old = beside / "new", beside / "old"
    with _locked(beside, wait=True):
        try:
            new.mkdir()  # permissions follow the user's umask; mkdtemp makes private folders
            yield new
            sync_folder(new)
            try:
                if path.exists():
                    path.rename(old)
                new.rename(path)
            except BaseException:
                if old.exists() and not path.exists():
                    old.rename(path)
                raise
            sync_folder(path.parent)
        finally:
            shutil.rmtree(beside, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path, wait: bool = False) -> Iterator[bool]:
    """Whether it is locked until the block, or its process, ends: it is this user's, no other
    process has locked it, and the file system has locks."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            locked = os.fstat(fd).st_uid == os.geteuid()
        except OSError:
            locked = False
        yield locked
    finally:
        os.close(fd)


def _clear(parent: Path) -> None:
    """Remove what killed processes left. An old folder whose successor had not yet taken its place
    returns to it."""
    for beside in parent.glob(f".*.{RANDOM}.tmp"):
        with contextlib.suppress(OSError), _locked(beside) as free:
            names = {each.name for each in beside.iterdir()} if free else set()
            if not names or not names <= {"new", "old"}:  # a live process locks it before it writes
                continue
            place = parent / beside.name[1 : -len(f".{RANDOM}.tmp")]
            if len(names) == 2 and not place.exists():
                (beside / "old").rename(place)
            shutil.rmtree(beside, ignore_errors=True)
