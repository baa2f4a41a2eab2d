"""Which keys may connect, and in which role: the allowlist, join tokens, and waiting keys.

The command line and the coordinator both change the file, each under its lock; the
coordinator sees a change within half a second.
"""

import contextlib
import functools
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from msgspec import Struct, structs

from flctl.errors import AccessError, StateError, UsageError
from flctl.files import make_folder
from flctl.transport import allowlist
from flctl.transport.allowlist import AllowList, Entry, KeyRole, check_entry
from flctl.transport.keypair import PUBLIC, KeyPair, public_key
from flctl.transport.rotation import KeyRotation
from flctl.transport.tokens import MOST_OPEN, Token, find_open, new_token
from flctl.wire.messages import Deal

logger = logging.getLogger(__name__)

REFRESH_S = 0.5
WAITING = 64

UNREAD = (-1, -1, -1)
"""No file has this stamp."""


class Waiting(Struct, frozen=True):
    """An unknown key that has knocked; times are seconds since 1970."""

    key: str
    first_seen: float
    last_seen: float
    count: int


class Keyring:
    """The keys in `folder`. All methods may be called from any thread.

    Raises StateError when the folder cannot be used or its file is damaged.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self.path = make_folder(folder) / "allowed.json"
        self._clock = clock
        self._lock = threading.RLock()
        self._waiting: OrderedDict[str, Waiting] = OrderedDict()
        self._next_look = 0.0
        self._trouble = ""
        """With the file, as it was logged."""
        once = (self.path.parent / f"server{PUBLIC}").exists()
        if not self.path.exists():
            if once:
                raise _lost(self.path)
            allowlist.make(self.path)
        self._load()

    @functools.cached_property
    def server_keys(self) -> KeyRotation:
        """The coordinator's own pair, made at the first use, and one that is to replace it."""
        return KeyRotation(self.path.parent, self._clock)

    @property
    def server(self) -> KeyPair:
        return self.server_keys.current

    @property
    def now(self) -> float:
        """Seconds since 1970, by the clock that tokens go by."""
        return self._clock()

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
            return "guest" if any(token.is_open(now) for token in self._allowed.tokens) else None

    def name_of(self, key: str) -> str | None:
        with self._lock:
            entry = self._by_key.get(key)
            return entry.name if entry is not None else None

    def evaluates(self, key: str) -> bool:
        """Whether it is that of an agent which is enrolled to evaluate."""
        with self._lock:
            entry = self._by_key.get(key)
            return entry is not None and entry.evaluates

    def is_revoked(self, key: str) -> bool:
        with self._lock:
            return self._allowed.is_revoked(key)

    def entries(self) -> list[Entry]:
        """All enrolled keys, by name."""
        with self._lock:
            return sorted(self._allowed.keys, key=lambda entry: entry.name)

    def revoked(self) -> list[Entry]:
        """All revoked keys, by their former name."""
        with self._lock:
            return sorted(self._allowed.revoked, key=lambda entry: entry.name)

    def waiting(self) -> list[Waiting]:
        """Unknown keys that tried to connect, the latest first."""
        with self._lock:
            return list(reversed(self._waiting.values()))

    def authorise(self, key: str) -> bool:
        """Whether a connection with `key` is admitted; a rejected key is recorded as waiting."""
        if self.role_of(key) is not None:
            return True
        if not self.is_revoked(key):  # do not suggest that it be enrolled again
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

        True when it had. When the file is damaged that is logged, once, and the last good
        list stays in force: a mistake in an editor must not end a run.
        """
        with self._lock:
            if now < self._next_look:
                return False
            self._next_look = now + REFRESH_S
            return self._reread()

    # Changing -------------------------------------------------------------------------

    def add(self, name: str, key: str, role: KeyRole | Literal["evaluate"]) -> None:
        """Let `key` in as `name`; what stands there already is fine. An agent that is enrolled
        already may be enrolled to evaluate, and back.

        Raises AccessError when the name or the key is taken, UsageError for a bad one.
        """
        key = public_key(key, f"key of {name}")
        check_entry(name, role)
        own = self.path.parent / f"server{PUBLIC}"
        if own.exists() and key in self.server_keys.public:
            raise UsageError(f"key of {name}: this is the coordinator's own key")
        with self._changing() as allowed:
            evaluates = role == "evaluate"
            kind: KeyRole = "agent" if role == "evaluate" else role
            added = self._clock()
            allowed.insert(Entry(name=name, key=key, role=kind, added=added, evaluates=evaluates))

    def revoke(self, name: str) -> list[Token]:
        """Shut the key of `name` out; a token does not let it in again, `add` does.

        Returns the open tokens that were closed with it: an agent may hold them, and could come
        back with another key. Raises AccessError when there is no such name.
        """
        with self._changing() as allowed:
            return allowed.revoke(name, self._clock())

    def new_token(
        self,
        ttl_s: float,
        uses: int,
        deal: Deal | None = None,
        by: str = "",
        evaluates: bool = False,
    ) -> str:
        """Open the door for `uses` joins within `ttl_s` seconds: the token, to be passed on.

        With `deal`, each of them who asks for it gets a part of the data of its own. `by` is
        who opens it. With `evaluates`, they are enrolled to measure models. Raises UsageError for
        bounds that are too wide, AccessError when too many are open.
        """
        text, token = new_token(ttl_s, uses, self._clock(), deal, by, evaluates)
        with self._changing() as allowed:
            if sum(known.is_open(token.opened) for known in allowed.tokens) >= MOST_OPEN:
                raise AccessError(
                    f"{MOST_OPEN} tokens are open, the maximum: close some with flctl keys "
                    "tokens --close ID"
                )
            allowed.tokens.append(token)
        return text

    def open_tokens(self) -> list[Token]:
        """Open tokens, the first to expire first."""
        with self._lock:
            now = self._clock()
            found = [token for token in self._allowed.tokens if token.is_open(now)]
            return sorted(found, key=lambda token: token.expires)

    def open_token(self, text: str) -> Token | None:
        """The open token `text`, or None."""
        with self._lock:
            try:
                return self._allowed.tokens[find_open(self._allowed.tokens, text, self._clock())]
            except AccessError:
                return None

    def close_token(self, text: str) -> None:
        """Close the token: no further joins with it."""
        with self._changing() as allowed:
            allowed.close_tokens(lambda token: token.matches(text), self._clock())

    def close_tokens(self, ids: Sequence[str] | None) -> list[Token]:
        """Close the open tokens of these ids, all for None; those that were open.

        Raises AccessError, and closes none, when one of them is not open.
        """
        with self._changing() as allowed:
            now = self._clock()
            there = {token.id for token in allowed.tokens if token.is_open(now)}
            for wanted in ids or ():
                if wanted not in there:
                    raise AccessError(f"no token {wanted} is open; see flctl keys tokens")
            return allowed.close_tokens(lambda token: ids is None or token.id in ids, now)

    def joined_already(self, token: str, key: str, name: str | None, shard: bool) -> Entry | None:
        """What `redeem` would return without a change; None: it has something to write.

        Answered from memory, but for one look at the file's date. Raises AccessError for a join
        that is refused whatever the file says: most of all for a token that is wrong.
        """
        with self._lock:
            self._reread()
            now, known = self._clock(), self._by_key.get(key)
            if known is not None and name in (None, known.name):
                if not shard:
                    return known
                open_one = self.open_token(token)
                deal = open_one.deal if open_one is not None else None
                if deal is not None and (known.shard is None or known.shard.deal != deal):
                    return None
                return self._allowed.with_shard(known, token, now)
            if self.is_revoked(key):
                raise AccessError("this key was revoked; flctl keys add enrols it again")
            find_open(self._allowed.tokens, token, now)
            if name is not None:
                self._allowed.expect_free(name)
            return None

    def redeem(self, token: str, key: str, name: str | None, shard: bool = False) -> Entry:
        """Enrol `key` as an agent: under `name`, the next free `pi-NN` for None; with a part of
        the data if it wants a `shard`.

        A key that is enrolled already gets its name and its shard again and no use is taken;
        an open token that deals the data otherwise than before deals it again. Raises
        AccessError: the token is wrong, expired or used up, the name is taken, or there is no
        shard.
        """
        if name is not None:
            check_entry(name, "agent")
        now = self._clock()
        with self._changing() as allowed:
            known = allowed.owner(key)
            if known is not None and name in (None, known.name):
                return allowed.with_shard(known, token, now) if shard else known
            if allowed.is_revoked(key):
                raise AccessError("this key was revoked; flctl keys add enrols it again")
            index = find_open(allowed.tokens, token, now)
            chosen = name if name is not None else allowed.free_name()
            spent = allowed.tokens[index]
            entry = Entry(
                name=chosen,
                key=key,
                role="agent",
                added=now,
                evaluates=spent.evaluates,
                token=spent.id,
            )
            allowed.insert(entry)
            allowed.tokens[index] = structs.replace(spent, uses_left=spent.uses_left - 1)
            return allowed.with_shard(entry, token, now, spent) if shard else entry

    # The file -------------------------------------------------------------------------

    @contextlib.contextmanager
    def _changing(self) -> Iterator[AllowList]:
        with self._lock:
            try:
                with allowlist.changing(self.path, self._clock()) as allowed:
                    yield allowed
            finally:
                self._load()

    def _reread(self) -> bool:
        """Whether the file has changed and could be read."""
        if self._stamp_now() == self._stamp:
            return False
        try:
            self._load()
        except StateError as error:
            if str(error) != self._trouble:
                logger.error("%s; the keys stay unchanged", error)
            self._trouble = str(error)
            return False
        self._trouble = ""
        return True

    def _load(self) -> None:
        # The stamp is taken first: a change in between is then seen at the next look.
        self._stamp = self._stamp_now()
        try:
            self._allowed = allowlist.read(self.path)
        except StateError as error:
            if isinstance(error.__cause__, OSError):
                self._stamp = UNREAD  # it says nothing about the file: read again at the next look
            raise
        self._by_key = {entry.key: entry for entry in self._allowed.keys}
        known = self._by_key.keys() | {entry.key for entry in self._allowed.revoked}
        for key in known & self._waiting.keys():
            del self._waiting[key]

    def _stamp_now(self) -> tuple[int, int, int]:
        try:
            status = self.path.stat()
        except OSError:
            return (0, 0, 0)
        return (status.st_mtime_ns, status.st_ino, status.st_size)


def _lost(path: Path) -> StateError:
    """Error for a lost file: without it, revoked keys would be admitted again."""
    return StateError(
        f"{path} is missing; it lists the enrolled and the revoked keys: restore it from a "
        f"backup, or, to begin with an empty list, move server{PUBLIC} away"
    )
