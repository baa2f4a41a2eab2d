"""The allow-list as a file: readable by a person, checked when read, changed under a lock."""

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, get_args

import msgspec
from msgspec import Struct, structs

from flctl.errors import AccessError, StateError, UsageError, decoded
from flctl.files import explained, read_small, replace
from flctl.settings import AgentName
from flctl.transport.tokens import BY_INVITATION, Token, find_open, remembered
from flctl.wire.messages import Deal, Shard

KeyRole = Literal["agent", "read", "admin"]
EVALUATE = "evaluate"
"""What a person writes for an agent that evaluates."""
SCHEMA = 1
MOST_BYTES = 64 * 2**20
"""Maximum size of the list; a thousand keys take a third of a megabyte."""


class Entry(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """An enrolled key, or a revoked one."""

    name: AgentName
    key: str
    role: KeyRole
    added: float
    """Seconds since 1970."""
    shard: Shard | None = None
    """The part of the data that it was assigned when it joined."""
    token: str = ""
    """The id of the token that it joined with, if it did."""
    evaluates: bool = False
    """An agent that may measure every round's model instead of training."""


class AllowList(Struct, forbid_unknown_fields=True, kw_only=True):
    """What `allowed.json` holds; no secret: public keys, and tokens hashed."""

    schema: int = SCHEMA
    keys: list[Entry] = []
    revoked: list[Entry] = []
    """Kept, so that an open token does not let them in again."""
    tokens: list[Token] = []

    def expect_free(self, name: str) -> None:
        """Raises AccessError if another key has this name."""
        if self.find(name) is not None:
            raise AccessError(
                f"the name {name} is taken by another key: choose another, or on the coordinator "
                f"run: flctl keys revoke {name}"
            )

    def find(self, name: str) -> Entry | None:
        return next((entry for entry in self.keys if entry.name == name), None)

    def owner(self, key: str) -> Entry | None:
        return next((entry for entry in self.keys if entry.key == key), None)

    def is_revoked(self, key: str) -> bool:
        return any(entry.key == key for entry in self.revoked)

    def insert(self, new: Entry) -> None:
        """Raises AccessError when the name or the key is taken."""
        same_key = self.owner(new.key)
        if same_key is not None and (same_key.name, same_key.role) == (new.name, new.role):
            if same_key.evaluates != new.evaluates:  # the rest of what is known of it stays
                changed = structs.replace(same_key, evaluates=new.evaluates)
                self.keys[self.keys.index(same_key)] = changed
            return
        if same_key is not None:
            raise AccessError(
                f"this key is already enrolled, as {same_key.name} ({same_key.role}); "
                f"flctl keys revoke {same_key.name} first"
            )
        self.expect_free(new.name)
        self.revoked = [entry for entry in self.revoked if entry.key != new.key]
        self.keys.append(new)

    def revoke(self, name: str, now: float) -> list[Token]:
        """Shut `name` out, and close the open tokens that it may hold: that which it joined
        with, and any that lies in a folder which agents share. Those that were closed.

        Raises AccessError when there is no such name.
        """
        entry = self.find(name)
        if entry is None:
            raise AccessError(f"no key is enrolled as {name}; see flctl keys list")
        self.keys.remove(entry)
        self.revoked.append(entry)
        if entry.role != "agent":
            return []
        return self.close_tokens(
            lambda token: token.id == entry.token or token.by == BY_INVITATION, now
        )

    def close_tokens(self, which: Callable[[Token], bool], now: float) -> list[Token]:
        """Those that were open until now."""
        found = [token for token in self.tokens if token.is_open(now) and which(token)]
        self.tokens = [
            structs.replace(token, closed=True) if token in found else token
            for token in self.tokens
        ]
        return found

    def give_shard(self, key: str, deal: Deal) -> Entry:
        """Assign the first free part to the owner of `key`.

        Raises AccessError when all are assigned.
        """
        owner = self.owner(key)
        assert owner is not None
        others = [entry for entry in self.keys if entry is not owner]
        taken = {entry.shard.index for entry in others if entry.shard and entry.shard.deal == deal}
        free = next((index for index in range(deal.of) if index not in taken), None)
        if free is None:
            raise AccessError(
                f"all {deal.of} shards are assigned: revoke an agent that is gone (flctl keys "
                "revoke NAME), or assign more (flctl keys token --shards N)"
            )
        dealt = structs.replace(owner, shard=Shard.of_deal(deal, free))
        self.keys[self.keys.index(owner)] = dealt
        return dealt

    def with_shard(self, entry: Entry, text: str, now: float, spent: Token | None = None) -> Entry:
        """`entry` with its part of the data. Raises AccessError when there is none for it."""
        if spent is None:
            try:
                spent = self.tokens[find_open(self.tokens, text, now)]
            except AccessError:
                if entry.shard is not None:
                    return entry
                if text:
                    raise
                raise AccessError(
                    f"no shard is recorded for {entry.name}: start it once with a token of  "
                    "flctl keys token --shards N"
                ) from None
        if spent.deal is None and entry.shard is None:
            raise AccessError(
                "the token assigns no shards: create one with  flctl keys token --shards N"
            )
        if spent.deal is None or (entry.shard is not None and entry.shard.deal == spent.deal):
            return entry
        return self.give_shard(entry.key, spent.deal)

    def free_name(self) -> str:
        taken = {entry.name for entry in self.keys}
        number = 1
        while f"pi-{number:02}" in taken:
            number += 1
        return f"pi-{number:02}"


def read(path: Path) -> AllowList:
    """Raises StateError when the file is not there, or damaged: never a list by halves."""
    with explained(path, "read the keys"):
        data = read_small(path, MOST_BYTES)
    what, then = f"{path}: the list of keys is damaged", "; restore it from a backup"
    with decoded(StateError, what, then):
        allowed = msgspec.json.decode(data, type=AllowList)
    if allowed.schema != SCHEMA:
        raise StateError(f"{path}: schema {allowed.schema}, this version reads {SCHEMA}")
    names = {entry.name for entry in allowed.keys}
    keys = {entry.key for entry in allowed.keys}
    if min(len(names), len(keys)) < len(allowed.keys):
        raise StateError(f"{path}: a name or a key appears twice; remove one of them")
    return allowed


@contextlib.contextmanager
def changing(path: Path, now: float) -> Iterator[AllowList]:
    """Read, change, write, as one step for all processes; an exception changes nothing."""
    lock = path.with_name(".allowed.lock")
    with contextlib.ExitStack() as stack:
        with explained(lock, "change the keys"):
            fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            stack.callback(os.close, fd)
            fcntl.flock(fd, fcntl.LOCK_EX)
        allowed = read(path)
        before = _encode(allowed)
        yield allowed
        allowed.tokens = remembered(allowed.tokens, now)
        after = _encode(allowed)
        if after != before:
            replace(path, after)


def make(path: Path) -> None:
    """An empty list, unless there is one already. Raises StateError."""
    with explained(path, "make the list of keys"), contextlib.suppress(FileExistsError):
        temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
        replace(temporary, _encode(AllowList()))
        try:
            path.hardlink_to(temporary)
        finally:
            temporary.unlink()


def check_entry(name: str, role: str) -> None:
    """Raises UsageError for what cannot be a name or is not a role."""
    try:
        msgspec.convert(name, AgentName)
    except msgspec.ValidationError as error:
        raise UsageError(
            f"'{name}' cannot be a name: up to 63 of a-z 0-9 . _ - , a-z or 0-9 first, as in pi-01"
        ) from error
    if role not in (EVALUATE, *get_args(KeyRole)):
        raise UsageError(f"'{role}' is not a role: write agent, evaluate, read or admin")


def _encode(allowed: AllowList) -> bytes:
    return msgspec.json.format(msgspec.json.encode(allowed), indent=2) + b"\n"
