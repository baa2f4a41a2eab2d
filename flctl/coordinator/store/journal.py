"""The journal of a run: one JSON object a line, appended and synced, never rewritten.

Each line seals the lines before it (flctl.core.chain); readers of events do not see that.
"""

import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from flctl.coordinator.store import schema1
from flctl.core.chain import Chain, verify
from flctl.core.events import AnyEvent, RoundCommitted
from flctl.core.history import History
from flctl.core.stream import DURABLE, FROM_START, Published
from flctl.errors import NOT_DECODED, StateError, one_line
from flctl.files import explained
from flctl.settings import SCHEMA

logger = logging.getLogger(__name__)

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(AnyEvent).decode
_Marked = msgspec.defstruct("_Marked", [("schema", int, SCHEMA)])
_schema = msgspec.json.Decoder(_Marked)
_READERS: dict[int, Callable[[bytes], AnyEvent]] = {SCHEMA: _decode, schema1.SCHEMA: schema1.read}


def read_events(path: Path) -> list[AnyEvent]:
    """Every whole event. A torn last line (power was cut while it was written) is left out.

    Raises StateError with the line of any other damage, or when a newer flctl wrote it.
    """
    return list(each_event(path))


def each_event(path: Path, chain: Chain | None = None) -> Iterator[AnyEvent]:
    """Yield the events one by one, to keep a long run out of memory; `chain` follows the lines."""
    for line, event in _events(path):
        if chain is not None:
            chain.follow(line)
        yield event


def published(path: Path, after: int = FROM_START) -> Iterator[Published]:
    """The events after the one with that number, as those heard them who followed the run."""
    chain = Chain()
    for seq, (line, event) in enumerate(_events(path)):
        chain.follow(line)
        if seq > after:
            yield _published(path, event, seq, chain.head)


def _published(path: Path, event: AnyEvent, seq: int, head: str) -> Published:
    return Published(path.parent.name, event, seq, head if isinstance(event, DURABLE) else "")


def verdict(path: Path, kept: str | None = None) -> Chain:
    """Whether the journal's lines follow from each other; `kept`: see flctl.core.chain.

    A torn last line is not an error. Raises StateError as `read_events` does.
    """
    return verify((line for line, _ in _events(path)), *([kept] if kept else []))


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
    complete(path, history)
    return history


def complete(path: Path, history: History) -> None:
    """Give a lean history its last round whole, which it is not after rounds were withdrawn.

    Raises StateError.
    """
    if not history.incomplete:
        return
    rounds = (event for _, event in _events(path) if isinstance(event, RoundCommitted))
    # Of several the last one: those before it were withdrawn.
    last = deque((event for event in rounds if event.round == history.round), maxlen=1)
    history.complete(last[0])


def chain_of(path: Path) -> dict[str, object]:
    """The verdict as `flctl runs show --json` has it. Raises StateError."""
    return shown_chain(verdict(path))


def shown_chain(found: Chain) -> dict[str, object]:
    return {**msgspec.to_builtins(found), "chained": found.chained, "fault": found.fault}


def _events(path: Path) -> Iterator[tuple[bytes, AnyEvent]]:
    """Each with its line."""
    read = _READERS[SCHEMA]
    with explained(path, "read the journal"), path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return  # torn
            try:
                if number == 1:
                    schema = _schema.decode(line).schema  # type: ignore[attr-defined]
                    if schema not in _READERS:
                        raise StateError(f"{path}: written by another version of flctl")
                    read = _READERS[schema]
                event = read(line)
            except NOT_DECODED as error:
                if not file.readline():
                    return  # the last one: the disk kept the length but not the bytes
                why = one_line(error)
                raise StateError(f"{path}, line {number}: not an event: {why}") from error
            yield line, event


class Journal:
    """Appends to a journal, from any thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        with explained(path, "open the journal"):
            self._chain, self._whole = Chain(), 0
            """Bytes up to the end of the last good line."""
            for line, _ in _events(path) if path.exists() else ():
                self._chain.follow(line)
                self._whole += len(line)
            self._count = self._chain.lines
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            os.ftruncate(self._fd, self._whole)  # without a torn last line
        self.head = self._chain.head
        """The chain up to the last line that no power cut takes back."""
        self._durable = self._count
        self._untold: deque[Published] = deque()
        if fault := self._chain.fault:
            logger.error("%s: %s; the run continues after its last line", path, fault)

    def append(self, events: Sequence[AnyEvent], sync: bool = True) -> None:
        """Write `events`; with `sync` they are on disk on return.

        Without it they become durable with the next synced append, in order. Raises
        StateError, and then the journal is as it was.
        """
        lines = [self._line(event) for event in events]
        with self._lock, explained(self.path, "write the journal"):
            chain = Chain(head=self._chain.head)
            data, told = b"", []
            for seq, (line, event) in enumerate(zip(lines, events, strict=True), self._count):
                data += chain.seal(line) + b"\n"
                told.append(_published(self.path, event, seq, chain.head if sync else ""))
            if not (there := os.fstat(self._fd)).st_nlink:
                raise StateError(f"{self.path}: was deleted during the run; begin a new run")
            # Half a line that could not be taken back, either: never for the next one to follow.
            if there.st_size != self._whole:
                os.ftruncate(self._fd, self._whole)
            try:
                _write_all(self._fd, data)
                if sync:
                    getattr(os, "fdatasync", os.fsync)(self._fd)  # macOS has the latter
            except OSError:
                os.ftruncate(self._fd, self._whole)
                raise
            self._whole += len(data)
            self._chain = chain
            self._count += len(told)
            self._untold += told
            if sync:
                self.head, self._durable = chain.head, self._count

    def told(self, event: AnyEvent) -> Iterator[Published]:
        """Takes what was appended up to `event` and was not taken yet, in the journal's order:
        what another thread has appended meanwhile, too."""
        with self._lock:
            if not any(told.event is event for told in self._untold):
                return
        while True:
            with self._lock:
                told = self._untold.popleft()
            yield told
            if told.event is event:
                return

    def sync(self) -> None:
        """Make all that was appended durable. Raises StateError."""
        with explained(self.path, "write the journal"):
            with self._lock:  # not held for the sync: appends do not wait for it
                fd, count, head = os.dup(self._fd), self._count, self._chain.head
            try:
                getattr(os, "fdatasync", os.fsync)(fd)  # macOS has the latter
            finally:
                os.close(fd)
        with self._lock:
            if count > self._durable:
                self._durable, self.head = count, head

    def close(self) -> None:
        with self._lock:
            # Another thread may still want to append: never to a file that took this number.
            fd, self._fd = self._fd, -1
            os.close(fd)

    def _line(self, event: AnyEvent) -> bytes:
        """Encode an event and check that it decodes: NaN, for example, becomes null in JSON."""
        try:
            line = _encode(event)
            _decode(line)
        except (msgspec.DecodeError, UnicodeError) as error:
            raise StateError(f"{self.path}: an event that cannot be stored: {error}") from error
        return line


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
