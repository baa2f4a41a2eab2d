"""Files that survive a power cut, and locks that end with their process."""

import contextlib
import difflib
import errno
import fcntl
import glob
import itertools
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, TypeVar

import msgspec

from flctl.errors import StateError, UsageError, decoded

T = TypeVar("T")

PAGE_BYTES = 256 * 1024

MOST_BYTES = 2**20
"""Maximum size of a file with a key, a token or settings."""

_syncing = ThreadPoolExecutor(max_workers=16, thread_name_prefix="sync")


def failure(error: OSError, path: Path, doing: str, option: str = "--state") -> StateError:
    """An OSError in words that say what to do; `option` names the place."""
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return StateError(f"{path}: cannot {doing}: the disk is full; make room and try again")
        case errno.EROFS | errno.EACCES | errno.EPERM:
            read_only = error.errno == errno.EROFS
            why = "the file system is read-only" if read_only else "this user may not write there"
            return StateError(f"{path}: cannot {doing}: {why}; name another folder with {option}")
        case _:
            return StateError(f"{path}: cannot {doing}: {error.strerror or error}")


def absent(path: Path) -> str:
    """Message about a path that does not exist, with a suggestion of what was meant."""
    if path.is_symlink():
        try:
            path.stat()
        except OSError as error:
            loop = error.errno == errno.ELOOP
            return f"a link that leads {'to itself' if loop else f'to nothing: {path.readlink()}'}"
    names: list[str] = []
    with contextlib.suppress(OSError, ValueError):
        longer = sorted(each.name for each in path.parent.glob(f"{glob.escape(path.name)}.*"))
        names = [name for name in longer if name.endswith(".hea")] or longer
        there = [each.name for each in itertools.islice(path.parent.iterdir(), 1000)]
        names += difflib.get_close_matches(path.name, there, n=1, cutoff=0.7)
    meant = f"; did you mean {path.with_name(names[0])}?" if names else ""
    return f"no such file or folder{meant}"


def expect_path(path: Path, named: str = "") -> None:
    """Check that `path` exists; `named` is how the user gave it. Raises UsageError."""
    if not path.exists():
        raise UsageError(f"{named or path}: {absent(path)}")


@contextlib.contextmanager
def explained(path: Path, doing: str, option: str = "--state") -> Iterator[None]:
    """Turn every OSError of the block into a StateError about `path`."""
    try:
        yield
    except OSError as error:
        raise failure(error, path, doing, option) from error


def make_folder(path: Path, option: str = "--state") -> Path:
    """Make `path` and its parents, for this user only. Raises StateError."""
    with explained(path, "make the folder", option):
        for folder in (*reversed(path.absolute().parents), path):
            if not folder.exists():  # `parents=True` would let others read the parents
                folder.mkdir(mode=0o700, exist_ok=True)
                with contextlib.suppress(PermissionError):  # a parent that may not be listed
                    sync_folder(folder.parent)
    if not path.is_dir():
        raise StateError(f"{path}: is not a folder; name another one with {option}")
    return path


def sync_folder(path: Path) -> None:
    """Make renames within `path` durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class Syncing:
    """Makes the data of open files and the names in `folder` durable, all at the same time;
    also the name of `folder` itself, and so on up to `top`: a file is as durable as its path.

    The kernel then commits its own journal once for all of them, not once for each. It has
    begun when this returns; the files may be closed meanwhile.
    """

    def __init__(self, fds: Sequence[int], folder: Path, top: Path | None = None) -> None:
        self._folder = folder
        own: list[int] = []
        try:
            own.extend(os.dup(fd) for fd in fds)
            for path in (folder, *folder.parents):
                own.append(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
                if path == (top or folder):
                    break
        except OSError:
            for fd in own:
                os.close(fd)
            raise
        self._done = [_syncing.submit(_sync_and_close, fd) for fd in own]

    def also(self, sync: Callable[[], None]) -> None:
        """Begin this as well, and wait for it."""
        self._done.append(_syncing.submit(sync))

    def wait(self) -> None:
        """Until all of it is on disk. Raises StateError."""
        with explained(self._folder, "make files durable"):
            for future in self._done:
                future.result()


def _sync_and_close(fd: int) -> None:
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def replace(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Write `data` to `path`, whole or not at all, durably. Raises StateError."""
    with explained(path, "write"), new_file(path, mode) as file:
        file.write(data)


def place_of(path: Path) -> Path:
    """Target for writing `path`: what a link points to, so that the link stays.

    Raises UsageError for a device, a pipe or a folder, which no file may replace.
    """
    place = Path(os.path.realpath(path))
    if os.path.lexists(place) and not place.is_file():
        raise UsageError(f"{path}: not a regular file, and would be overwritten; name another one")
    return place


@contextlib.contextmanager
def new_file(path: Path, mode: int = 0o644) -> Iterator[IO[bytes]]:
    """A binary file that takes the place of `path` when the block ends well.

    Raises UsageError when that place is not a file's.
    """
    path = place_of(path)
    with temporary_for(path) as (fd, temporary):
        os.fchmod(fd, mode)
        with os.fdopen(fd, "wb", closefd=False) as file:
            yield file
            file.flush()
            os.fsync(fd)
        temporary.replace(path)
    sync_folder(path.parent)


@contextlib.contextmanager
def temporary_for(path: Path) -> Iterator[tuple[int, Path]]:
    """An empty file of this user alone next to `path`, open to write; removed if it is still
    there at the end.

    It has one name for one `path`, so that what kill -9 leaves is taken over by the next writer
    and does not add up; of two at the same time the second one waits.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    while True:
        try:
            fd = _new_or_left_over(temporary)
        except FileNotFoundError:
            if temporary.parent.is_dir():
                continue  # the one that was there has just been renamed or removed
            raise
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(fd, fcntl.LOCK_EX)
        if _is_still(temporary, fd):
            if _is_own(fd):
                break
            temporary.unlink()  # not written by flctl: a new one takes its place
        os.close(fd)  # its previous holder has renamed or removed it
    try:
        os.ftruncate(fd, 0)
        os.fchmod(fd, 0o600)
        yield fd, temporary
    finally:
        with contextlib.suppress(OSError):
            if _is_still(temporary, fd):
                temporary.unlink()
        os.close(fd)


def _new_or_left_over(path: Path) -> int:
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return os.open(path, flags | os.O_NONBLOCK)


def _is_own(fd: int) -> bool:
    """Whether it is a plain file of this user under one name: not planted by someone who reads
    along, and no second name of a file that must not be emptied."""
    found = os.fstat(fd)
    return stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and found.st_nlink == 1


def _is_still(path: Path, fd: int) -> bool:
    try:
        there = path.lstat()
    except FileNotFoundError:
        return False
    return os.path.samestat(there, os.fstat(fd))


def read_small(path: Path, most: int = MOST_BYTES) -> bytes:
    """Contents of a file named by the user, which may be a device that never ends.

    Raises OSError, also for one that is larger than `most` bytes.
    """
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"it has more than {most >> 20} MB", str(path))
    return data


def load(path: Path, kind: type[T], doing: str, then: str = "", schema: int | None = None) -> T:
    """The small JSON file as a `kind`, of that schema; `then`: what to do with a damaged one.

    Raises StateError.
    """
    with explained(path, doing):
        data = read_small(path)
    with decoded(StateError, f"{path}: damaged", then):
        found = msgspec.json.decode(data, type=kind)
    if schema is not None and (version := getattr(found, "schema", None)) != schema:
        raise StateError(f"{path}: schema {version}, this version reads {schema}")
    return found


def page(path: Path, offset: int) -> bytes:
    """Up to PAGE_BYTES of the file from `offset` on; nothing at its end. Raises StateError."""
    with explained(path, "read"):
        if not stat.S_ISREG(path.stat().st_mode):
            raise StateError(f"{path}: is not a regular file")
    with explained(path, "read"), path.open("rb") as file:
        file.seek(offset)
        return file.read(PAGE_BYTES)


_LOCK_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
"""O_NOFOLLOW: a link planted there must not lead to another file being opened."""


class Lock:
    """An exclusive lock that ends with the process, however it ends.

    Raises StateError with `busy` when another process holds it.
    """

    def __init__(self, path: Path, busy: str) -> None:
        with explained(path, "take the lock"):
            self._fd = os.open(path, _LOCK_FLAGS, 0o600)
        with contextlib.ExitStack() as undo:
            undo.callback(os.close, self._fd)
            with explained(path, "take the lock"):
                try:
                    _take(self._fd)
                except BlockingIOError as error:
                    raise StateError(f"{busy} (process {holder_of(path)})") from error
                os.truncate(self._fd, 0)
                os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)
            undo.pop_all()

    def release(self) -> None:
        os.close(self._fd)


def _take(fd: int) -> None:
    """Several tries, because `is_locked` of another process holds the lock for a moment."""
    for _ in range(5):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(0.01)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def holder_of(path: Path) -> str:
    """Number of the process that holds the lock, or was the last to do so."""
    with contextlib.suppress(OSError):
        return path.read_text(errors="replace")[:20].strip() or "?"
    return "?"


def is_locked(path: Path) -> bool:
    """Whether some process holds the lock; the lock is not disturbed for longer than this."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        return error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
