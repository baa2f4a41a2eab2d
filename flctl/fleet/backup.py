"""Backup of a state folder as one stream: a tar that begins with a description.

A coordinator may work on the folder meanwhile. A journal and the audit file are only ever
appended to: their whole lines are taken up to a point. Models, updates and keys are renamed into
place: an open file stays as it was. A journal's length is taken before its run's files are
opened, so that what it names is there; an update of an open round that has been used meanwhile
is asked for again.
"""

import os
import platform
import re
import stat
import tarfile
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO

import msgspec
from msgspec import Struct

from flctl import __version__
from flctl.coordinator.alerts.book import FILE as ALERTS
from flctl.coordinator.alerts.settings import FILE as SETTINGS
from flctl.coordinator.front.lives import FILE as LIVES
from flctl.coordinator.store.audit import FILE as AUDIT
from flctl.coordinator.store.folder import RunFolder, all_runs
from flctl.coordinator.store.labels import FILE as LABELS
from flctl.errors import StateError, UsageError
from flctl.files import explained
from flctl.transport.keypair import PUBLIC, read_public

FORMAT = 1
ABOUT = "backup.json"
PARTS = ("keys", "runs", "contexts", "heads")
SINGLE = ("cordoned.json", LABELS, LIVES, ALERTS, SETTINGS, AUDIT)
"""Folders, and single files, of the state folder that are kept."""
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:@+=-]*")
"""Name of a file or folder: no leading dot, no character special to a terminal or a shell."""
BLOCK = tarfile.BLOCKSIZE
_CHUNK = 1 << 18
_HELD = 200
"""Files of a run that are open at the same time: the newest."""
_TRIES = 20


class About(Struct, frozen=True, kw_only=True):
    """The description."""

    format: int
    at: float
    """Seconds since 1970."""
    version: str
    host: str
    server_key: str = ""
    runs: int = 0


class Stream:
    """The archive of `state`, made while it is read. Raises FlctlError from `read`; since that
    may pass through a library, `error` has it, too.

    `left_out` names, at the end, what is not in it: links, devices, names that flctl gives nothing.
    """

    def __init__(self, state: Path, clock: float | None = None) -> None:
        self.left_out: list[str] = []
        self.error: BaseException | None = None
        self.about = About(
            format=FORMAT,
            at=round(time.time() if clock is None else clock, 3),
            version=__version__,
            host=platform.node()[:100],
            server_key=_server_key(state),
            runs=sum(1 for _ in all_runs(state)),
        )
        if not any((state / part).exists() for part in (*PARTS, *SINGLE)):
            raise UsageError(f"{state}: is not a state folder of flctl; name one with --state")
        self._state = state
        self._parts = self._all()
        self._rest = b""

    def read(self, size: int, /) -> bytes:
        try:
            while not self._rest:
                self._rest = next(self._parts)
        except StopIteration:
            return b""
        except BaseException as error:
            self.error = error
            raise
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken

    def _all(self) -> Iterator[bytes]:
        about = msgspec.json.encode(self.about)
        yield from (_header(ABOUT, len(about)), _padded(about))
        yield from self._keys()
        for folder in all_runs(self._state):
            yield from self._run(folder)
        for part in PARTS:
            if part not in ("keys", "runs"):
                yield from self._files(list(self._below(self._state / part)))
        yield from self._files([self._state / name for name in SINGLE if name != AUDIT])
        if (self._state / AUDIT).exists():
            yield from self._lines_of(self._state / AUDIT)
        yield bytes(2 * BLOCK)

    def _keys(self) -> Iterator[bytes]:
        """A consistent snapshot: replacing a key changes two files."""
        folder = self._state / "keys"
        for _ in range(_TRIES):
            with ExitStack() as stack:
                names = list(self._below(folder))
                opened = [(p, f) for p in names if (f := self._opened(p, stack)) is not None]
                if list(self._below(folder)) == names and all(_is_still(*o) for o in opened):
                    for path, file in opened:
                        yield from self._whole(path, file)
                    return
            time.sleep(0.05)
        raise StateError(f"{folder}: keeps changing; try again")

    def _run(self, run: RunFolder) -> Iterator[bytes]:
        with ExitStack() as stack:
            journal = self._opened(run.journal_path, stack)
            if journal is None:
                return  # removed by now
            length = _whole_lines(journal)
            others = [p for p in self._below(run.path) if p != run.journal_path]
            # The newest first, and the names in `rounds` before the links next to it.
            others.sort(key=lambda p: (len(p.parts), str(p)), reverse=True)
            held = {p: self._opened(p, stack) for p in others[:_HELD]}
            yield from self._whole(run.journal_path, journal, length)
            seen = set[tuple[int, int]]()
            for path in others:
                with ExitStack() as own:
                    file = held[path] if path in held else self._opened(path, own)
                    if file is None:
                        continue
                    found = os.fstat(file.fileno())
                    if (found.st_dev, found.st_ino) not in seen:  # best and last are links
                        seen.add((found.st_dev, found.st_ino))
                        yield from self._whole(path, file)

    def _files(self, paths: list[Path]) -> Iterator[bytes]:
        for path in paths:
            with ExitStack() as stack:
                if (file := self._opened(path, stack)) is not None:
                    yield from self._whole(path, file)

    def _lines_of(self, path: Path) -> Iterator[bytes]:
        with ExitStack() as stack:
            if (file := self._opened(path, stack)) is not None:
                yield from self._whole(path, file, _whole_lines(file))

    def _below(self, folder: Path) -> Iterator[Path]:
        """Every plain file, but for locks and for what is not finished."""
        with explained(folder, "list what is in it"):
            entries = sorted(folder.iterdir()) if folder.is_dir() else []
        for path in entries:
            if path.name.startswith(".") or path.name == "lock":
                continue
            try:
                mode = path.lstat().st_mode
            except FileNotFoundError:
                continue
            fits = NAME.fullmatch(path.name) is not None
            if fits and stat.S_ISDIR(mode):
                yield from self._below(path)
            elif fits and stat.S_ISREG(mode):
                yield path
            elif (name := str(path.relative_to(self._state))) not in self.left_out:
                self.left_out.append(name)

    def _opened(self, path: Path, stack: ExitStack) -> IO[bytes] | None:
        """None when it is gone by now."""
        with explained(path, "read it for the backup"), suppress(FileNotFoundError):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            return stack.enter_context(os.fdopen(fd, "rb"))
        return None

    def _whole(
        self, path: Path, file: IO[bytes], length: int | None = None
    ) -> Generator[bytes, None, None]:
        size = os.fstat(file.fileno()).st_size if length is None else length
        yield _header(path.relative_to(self._state).as_posix(), size)
        left = size
        with explained(path, "read it for the backup"):
            file.seek(0)
            while left:
                if not (data := file.read(min(_CHUNK, left))):
                    raise StateError(f"{path}: was truncated while it was read; try again")
                left -= len(data)
                yield data
        yield bytes(-size % BLOCK)


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o600
    try:
        return info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "strict")
    except ValueError as error:
        raise StateError(f"{name}: cannot be backed up: {error}") from error


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def _whole_lines(file: IO[bytes]) -> int:
    """Bytes up to the last line end."""
    end = os.fstat(file.fileno()).st_size
    while end:
        start = max(0, end - _CHUNK)
        file.seek(start)
        at = file.read(end - start).rfind(b"\n")
        if at >= 0:
            return start + at + 1
        end = start
    return 0


def _is_still(path: Path, file: IO[bytes]) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _server_key(state: Path) -> str:
    path = state / "keys" / f"server{PUBLIC}"
    return read_public(path) if path.exists() else ""
