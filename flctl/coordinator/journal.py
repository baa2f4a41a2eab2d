"""The journal of a run: one JSON object a line, appended and synced, never rewritten."""

import os
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from flctl.core.history import AnyEvent, History
from flctl.errors import NOT_DECODED, StateError, one_line
from flctl.files import explained
from flctl.settings import SCHEMA

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(AnyEvent).decode
_Marked = msgspec.defstruct("_Marked", [("schema", int, SCHEMA)])
_schema = msgspec.json.Decoder(_Marked)


def as_json(event: AnyEvent) -> dict[str, object]:
    """The event as the journal has it."""
    built: dict[str, object] = msgspec.to_builtins(event)
    return built


def read_events(path: Path) -> list[AnyEvent]:
    """Every whole event. A torn last line (power was cut while it was written) is left out.

    Raises StateError with the line of any other damage, or when a newer flctl wrote it.
    """
    return [event for _, event in _events(path)]


def last_events(path: Path, count: int) -> list[AnyEvent]:
    """The same, without all of a long run in memory."""
    return list(deque((event for _, event in _events(path)), maxlen=count))


def replay(path: Path, lean: bool = False) -> History:
    """The state of the run whose journal this is; `lean`: see History. Raises StateError."""
    history = History(lean)
    for number, (_, event) in enumerate(_events(path), start=1):
        try:
            history.apply(event)
        except StateError as error:
            raise StateError(f"{path}, line {number}: {error}") from error
    if history.started is None:
        raise StateError(f"{path}: the run never started")
    return history


def _events(path: Path) -> Iterator[tuple[int, AnyEvent]]:
    """Each with the length of its line, in bytes."""
    with explained(path, "read the journal"), path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return  # torn
            try:
                if number == 1 and _schema.decode(line).schema != SCHEMA:  # type: ignore[attr-defined]
                    raise StateError(f"{path}: written by another version of flctl")
                event = _decode(line)
            except NOT_DECODED as error:
                if not file.readline():
                    return  # the last one: the disk kept the length but not the bytes
                why = one_line(error)
                raise StateError(f"{path}, line {number}: not an event: {why}") from error
            yield len(line), event


class Journal:
    """Appends to a journal, from any thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        with explained(path, "open the journal"):
            whole = _whole_lines(path) if path.exists() else 0
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            os.ftruncate(self._fd, whole)
        self._whole = whole
        """Bytes up to the end of the last good line."""

    def append(self, events: Sequence[AnyEvent], sync: bool = True) -> None:
        """Write `events`; with `sync` they are on disk on return.

        Without it they become durable with the next synced append, in order. Raises
        StateError, and then the journal is as it was.
        """
        data = b"".join(self._line(event) for event in events)
        with self._lock, explained(self.path, "write the journal"):
            # Half a line that could not be taken back, either: never for the next one to follow.
            if os.fstat(self._fd).st_size != self._whole:
                os.ftruncate(self._fd, self._whole)
            try:
                _write_all(self._fd, data)
                if sync:
                    os.fdatasync(self._fd)
            except OSError:
                os.ftruncate(self._fd, self._whole)
                raise
            self._whole += len(data)

    def sync(self) -> None:
        """Make all that was appended durable. Raises StateError."""
        with self._lock, explained(self.path, "write the journal"):
            os.fdatasync(self._fd)

    def close(self) -> None:
        with self._lock:
            # Another thread may still want to append: never to a file that took this number.
            fd, self._fd = self._fd, -1
            os.close(fd)

    def _line(self, event: AnyEvent) -> bytes:
        """What is written must be readable: NaN, for one, becomes null in JSON."""
        try:
            line = _encode(event)
            _decode(line)
        except (msgspec.DecodeError, UnicodeError) as error:
            raise StateError(f"{self.path}: an event that cannot be kept: {error}") from error
        return line + b"\n"


def _whole_lines(path: Path) -> int:
    """The length of the journal without a torn last line."""
    return sum(length for length, _ in _events(path))


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
