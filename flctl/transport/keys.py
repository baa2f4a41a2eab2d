"""Who may connect, and as what: the allow-list, join tokens, and who waits outside.

The command line and the coordinator both change the file, each under its lock; the
coordinator sees a change within half a second.
"""

import contextlib
import fcntl
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, get_args

import msgspec
from msgspec import Struct, structs

from flctl.errors import AccessError, StateError, UsageError
from flctl.files import explained, make_folder, replace
from flctl.settings import AgentName
from flctl.transport.keypair import KeyPair, load_or_make, public_key
from flctl.transport.tokens import KEEP_S, Token, find_open, new_token

__all__ = ["Entry", "KeyPair", "KeyRole", "Keyring", "Waiting", "load_or_make", "public_key"]

KeyRole = Literal["agent", "read", "admin"]
REFRESH_S = 0.5
WAITING = 64
SCHEMA = 1


class Entry(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A key that is let in (or was, among the revoked)."""

    name: AgentName
    key: str
    role: KeyRole
    added: float
    """Seconds since 1970."""


class Waiting(Struct, frozen=True):
    """An unknown key that has knocked; times are seconds since 1970."""

    key: str
    first_seen: float
    last_seen: float
    count: int


class _File(Struct, forbid_unknown_fields=True, kw_only=True):
    """What `allowed.json` holds."""

    schema: int = SCHEMA
    keys: list[Entry] = []
    revoked: list[Entry] = []
    """Kept, so that an open token does not let them in again."""
    tokens: list[Token] = []


class Keyring:
    """The keys in `folder`. All methods may be called from any thread.

    Raises StateError when the folder cannot be used or its file is damaged.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self.path = make_folder(folder) / "allowed.json"
        self._clock = clock
        self._lock = threading.RLock()
        self._waiting: OrderedDict[str, Waiting] = OrderedDict()
        self._stamp: tuple[int, int, int] | None = None
        self._next_look = 0.0
        self._file = _File()
        self._by_key: dict[str, Entry] = {}
        if not self.path.exists():
            with self._changing():
                pass
        self._load()

    @property
    def server(self) -> KeyPair:
        """The coordinator's own pair, made at the first use."""
        return load_or_make(self.path.parent / "server.key")

    # Asking ---------------------------------------------------------------------------

    def role_of(self, key: str) -> Literal["agent", "read", "admin", "guest"] | None:
        """None: refused. A guest is an unknown key while some token is open."""
        with self._lock:
            entry = self._by_key.get(key)
            if entry is not None:
                return entry.role
            if self.is_revoked(key):
                return None
            now = self._clock()
            return "guest" if any(token.is_open(now) for token in self._file.tokens) else None

    def name_of(self, key: str) -> str | None:
        with self._lock:
            entry = self._by_key.get(key)
            return entry.name if entry is not None else None

    def is_revoked(self, key: str) -> bool:
        with self._lock:
            return any(entry.key == key for entry in self._file.revoked)

    def entries(self) -> list[Entry]:
        """Everybody who is let in, by name."""
        with self._lock:
            return sorted(self._file.keys, key=lambda entry: entry.name)

    def waiting(self) -> list[Waiting]:
        """Unknown keys that have knocked, the latest first."""
        with self._lock:
            return list(reversed(self._waiting.values()))

    def authorise(self, key: str) -> bool:
        """Whether a connection with `key` is let in; one that is not is noted as waiting."""
        if self.role_of(key) is not None:
            return True
        self.note_unknown(key)
        return False

    def note_unknown(self, key: str) -> None:
        with self._lock:
            now = self._clock()
            old = self._waiting.pop(key, None) or Waiting(key, now, now, 0)
            self._waiting[key] = Waiting(key, old.first_seen, now, old.count + 1)
            while len(self._waiting) > WAITING:
                self._waiting.popitem(last=False)

    def refresh(self, now: float) -> bool:
        """Read the file again if it has changed; looks each half second of `now` at most.

        True when it had. A damaged file raises StateError once; the last good list stays
        in force until it is mended.
        """
        with self._lock:
            if now < self._next_look:
                return False
            self._next_look = now + REFRESH_S
            if self._stamp_now() == self._stamp:
                return False
            self._load()
            return True

    # Changing -------------------------------------------------------------------------

    def add(self, name: str, key: str, role: KeyRole) -> None:
        """Let `key` in as `name`; what stands there already is fine.

        Raises AccessError when the name or the key is taken, UsageError for a bad one.
        """
        key = public_key(key, f"key of {name}")
        _check(name, role)
        with self._changing() as file:
            self._insert(file, name, key, role)

    def revoke(self, name: str) -> None:
        """Shut the key of `name` out; a token does not let it in again, `add` does.

        Raises AccessError when there is no such name.
        """
        with self._changing() as file:
            entry = _find(file, name)
            if entry is None:
                raise AccessError(f"no key is enrolled as {name}; see flctl keys list")
            file.keys.remove(entry)
            file.revoked.append(entry)

    def new_token(self, ttl_s: float, uses: int) -> str:
        """Open the door for `uses` joins within `ttl_s` seconds: the token, to be passed on."""
        if not (0 < ttl_s < float("inf")) or uses < 1:
            raise UsageError("a token needs a time to live above 0 s and at least one use")
        text, token = new_token(ttl_s, uses, self._clock())
        with self._changing() as file:
            file.tokens.append(token)
        return text

    def redeem(self, token: str, key: str, name: str | None) -> str:
        """Enrol `key` as an agent: its name, the next free `pi-NN` for None.

        A key that is enrolled already gets its name again and no use is taken. Raises
        AccessError: the token is wrong, expired or used up, or the name is taken.
        """
        if name is not None:
            _check(name, "agent")
        with self._changing() as file:
            known = next((entry for entry in file.keys if entry.key == key), None)
            if known is not None and name in (None, known.name):
                return known.name
            if any(entry.key == key for entry in file.revoked):
                raise AccessError("this key was revoked; flctl keys add lets it in again")
            index = find_open(file.tokens, token, self._clock())
            chosen = name if name is not None else _free_name(file)
            self._insert(file, chosen, key, "agent")
            spent = file.tokens[index]
            file.tokens[index] = structs.replace(spent, uses_left=spent.uses_left - 1)
            return chosen

    def _insert(self, file: _File, name: str, key: str, role: KeyRole) -> None:
        same_key = next((entry for entry in file.keys if entry.key == key), None)
        if same_key is not None and (same_key.name, same_key.role) == (name, role):
            return
        if same_key is not None:
            raise AccessError(
                f"this key is enrolled already, as {same_key.name} ({same_key.role}); "
                f"flctl keys revoke {same_key.name} first"
            )
        if _find(file, name) is not None:
            raise AccessError(f"the name {name} is taken by another key")
        file.revoked = [entry for entry in file.revoked if entry.key != key]
        file.keys.append(Entry(name=name, key=key, role=role, added=self._clock()))

    # The file -------------------------------------------------------------------------

    @contextlib.contextmanager
    def _changing(self) -> Iterator[_File]:
        """Read, change, write, as one step for all processes and threads."""
        lock = self.path.with_name(".allowed.lock")
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._lock)
            with explained(lock, "change the keys"):
                fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                stack.callback(os.close, fd)
                fcntl.flock(fd, fcntl.LOCK_EX)
            if self._stamp is not None or self.path.exists():
                self._load()
            before = _encode(self._file)
            file = _decode(before, self.path)
            yield file
            now = self._clock()
            file.tokens = [token for token in file.tokens if now < token.expires + KEEP_S]
            after = _encode(file)
            if after != before or self._stamp is None:
                replace(self.path, after)
                self._load()

    def _load(self) -> None:
        # The stamp is taken first: a change in between is then seen at the next look.
        self._stamp = self._stamp_now()
        with explained(self.path, "read the keys"):
            data = self.path.read_bytes()
        self._file = _decode(data, self.path)
        self._by_key = {entry.key: entry for entry in self._file.keys}
        for key in self._by_key.keys() & self._waiting.keys():
            del self._waiting[key]

    def _stamp_now(self) -> tuple[int, int, int]:
        try:
            status = self.path.stat()
        except OSError:
            return (0, 0, 0)
        return (status.st_mtime_ns, status.st_ino, status.st_size)


def _encode(file: _File) -> bytes:
    return msgspec.json.format(msgspec.json.encode(file), indent=2) + b"\n"


def _decode(data: bytes, path: Path) -> _File:
    try:
        file = msgspec.json.decode(data, type=_File)
    except msgspec.DecodeError as error:
        raise StateError(f"{path}: the list of keys is damaged: {error}") from error
    if file.schema != SCHEMA:
        raise StateError(f"{path}: schema {file.schema}, this version reads {SCHEMA}")
    names = {entry.name for entry in file.keys}
    keys = {entry.key for entry in file.keys}
    if min(len(names), len(keys)) < len(file.keys):
        raise StateError(f"{path}: a name or a key stands there twice; remove one of them")
    return file


def _find(file: _File, name: str) -> Entry | None:
    return next((entry for entry in file.keys if entry.name == name), None)


def _free_name(file: _File) -> str:
    taken = {entry.name for entry in file.keys}
    number = 1
    while f"pi-{number:02}" in taken:
        number += 1
    return f"pi-{number:02}"


def _check(name: str, role: str) -> None:
    try:
        msgspec.convert(name, AgentName)
    except msgspec.ValidationError as error:
        raise UsageError(
            f"'{name}' cannot be a name: up to 63 of a-z 0-9 . _ - and a letter or digit first"
        ) from error
    if role not in get_args(KeyRole):
        raise UsageError(f"'{role}' is not a role: agent, read or admin")
