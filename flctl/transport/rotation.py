"""The server's key is replaced by a new one, with a time in which both are good.

In the folder of the keys `next.key` waits, and `rotation.json` says until when. Each step has one
rename or removal that decides: cut off at any point, it was done or it was not.
"""

import time
from collections.abc import Callable
from pathlib import Path

import msgspec
from msgspec import Struct

from flctl.errors import StateError, UsageError
from flctl.files import explained, load, replace, sync_folder
from flctl.transport.keypair import PUBLIC, KeyPair, load_or_make

SHORTEST_S, LONGEST_S = 60.0, 90 * 86_400.0
_SCHEMA = 1


class Rotation(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What `rotation.json` holds: public halves, and seconds since 1970."""

    schema: int = _SCHEMA
    old: str
    new: str
    began: float
    ends: float
    finished: bool = False
    """Only the new one is good; operators who have been away still hear of it."""


class KeyRotation:
    """The pairs that the coordinator answers with. Raises StateError as the files do."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self._folder, self.clock = folder, clock
        self._file, self._next = folder / "rotation.json", folder / "next.key"
        self.current = load_or_make(folder / "server.key")
        self.rotation = self._read()
        if self.rotation is not None and self.rotation.new == self.current.public:
            self._conclude(self.rotation)  # it was cut off after the new key had its name

    @property
    def overlap(self) -> Rotation | None:
        """The rotation in which both keys are good."""
        return None if self.rotation is None or self.rotation.finished else self.rotation

    @property
    def next(self) -> KeyPair | None:
        """The new pair in an overlap."""
        if self.overlap is None:
            return None
        pair = load_or_make(self._next) if self._next.exists() else None
        if pair is None or pair.public != self.overlap.new:
            raise StateError(
                f"{self._next}: not the key of {self._file}: put it back from a backup, or end the "
                "rotation without it: flctl keys rotate-server --abort"
            )
        return pair

    @property
    def public(self) -> tuple[str, ...]:
        """Those that are good, in the order in which they are to be tried: the new one first."""
        found = self.overlap
        return (self.current.public,) if found is None else (found.new, found.old)

    def begin(self, overlap_s: float) -> Rotation:
        """Raises UsageError while another rotation is in progress."""
        if self.overlap is not None:
            raise UsageError(
                "the server key is already being replaced: "
                "flctl keys rotate-server --finish, or --abort"
            )
        if not SHORTEST_S <= overlap_s <= LONGEST_S:
            raise UsageError(f"--overlap: from 1m to {LONGEST_S / 86_400:.0f}d")
        self._drop_next()  # of a rotation that was cut off before it began, or while it was ended
        now = self.clock()
        self.rotation = Rotation(
            old=self.current.public,
            new=load_or_make(self._next).public,
            began=now,
            ends=now + overlap_s,
        )
        self._write(self.rotation)
        return self.rotation

    def finish(self) -> Rotation:
        """From now on only the new key is valid. Raises UsageError without a rotation."""
        found = self._running()
        with explained(self._next, "put the new server key in its place"):
            self._next.replace(self._folder / "server.key")
            sync_folder(self._folder)
        self.current = load_or_make(self._folder / "server.key")
        return self._conclude(found)

    def abort(self) -> Rotation:
        """From now on only the old key is valid. Raises UsageError when there is no new one."""
        found = self._running()
        with explained(self._file, "end the rotation of the server key"):
            self._file.unlink()
            sync_folder(self._folder)
        self.rotation = None
        self._drop_next()
        return found

    def _running(self) -> Rotation:
        if self.overlap is None:
            raise UsageError("no server key is being replaced: flctl keys rotate-server begins")
        return self.overlap

    def _conclude(self, found: Rotation) -> Rotation:
        self.rotation = msgspec.structs.replace(found, finished=True)
        if not found.finished:
            self._write(self.rotation)
        self._drop_next()
        return self.rotation

    def _drop_next(self) -> None:
        with explained(self._next, "remove the key that was to be the next one"):
            self._next.unlink(missing_ok=True)
            self._next.with_suffix(PUBLIC).unlink(missing_ok=True)

    def _write(self, rotation: Rotation) -> None:
        replace(self._file, msgspec.json.format(msgspec.json.encode(rotation), indent=2) + b"\n")

    def _read(self) -> Rotation | None:
        if not self._file.exists():
            return None
        then = "; restore it from a backup, or move it away: then the next key is no longer valid"
        return load(self._file, Rotation, "read about the server key", then, _SCHEMA)
