"""Counts unread bytes per connection, and decides which connections to close.

Pure: byte counts and the time are passed in. `guard` takes the readings and closes connections.
"""

from collections.abc import Callable, Iterator

from msgspec import Struct

from flctl.wire.messages import CHUNK_BYTES

KIB, MIB = 1024, 1024 * 1024
SLACK_BYTES = 16 * KIB
"""Handshake and heartbeats of libzmq, which never arrive as messages: not looked into."""
READ_BYTES = 8 * KIB
"""libzmq reads small frames in pieces of this size, and then decodes them."""
TOTAL_BYTES = 96 * MIB
"""Limit for all connections combined; 300 honest agents with one chunk each use 83 MiB."""
GRACE_S = 0.5
"""From the revocation of a key to the end of its connections: time to say why."""
SILENCE_S = 30.0
"""Seconds that a connection may stay without a message; an honest peer speaks first, at once."""
_STEP_S = 0.5
"""Longest time that counts between two looks: a process that was stopped has not looked."""


class Quota(Struct, frozen=True):
    """Limits for the connections of one group; bytes are bytes on the wire.

    libzmq needs up to 2.3 times as much memory, for messages of tiny frames.
    """

    group: str
    connections: int
    waiting_bytes: int
    """Bytes of one connection that may be received and unread; with more it is closed."""
    fair_bytes: int
    """A connection with less is never closed for the sum of all connections."""


Quotas = Callable[[str], Quota | None]
"""From a public key in Z85; None when the key is no longer enrolled."""


def agent_share(key: str) -> Quota:
    """An honest agent has a window of 8 chunks on its way, at a change of rounds twice that."""
    return Quota(key, connections=4, waiting_bytes=20 * CHUNK_BYTES, fair_bytes=10 * CHUNK_BYTES)


def operator_share(key: str) -> Quota:
    """Questions and Fetches only, a few kilobytes; every open command is a connection."""
    return Quota(key, connections=16, waiting_bytes=512 * KIB, fair_bytes=96 * KIB)


GUESTS = Quota("guests", connections=64, waiting_bytes=512 * KIB, fair_bytes=96 * KIB)
"""Unknown keys cost nothing: all of them together are one group. Each sends one Join."""
SILENT = Quota("silent", connections=1_024, waiting_bytes=512 * KIB, fair_bytes=96 * KIB)
"""Those in the handshake, and those whose first message has not been read."""


def shares_of(role_of: Callable[[str], str | None]) -> Quotas:
    """By the role of each key, as `Keyring.role_of` tells it."""

    def share(key: str) -> Quota | None:
        match role_of(key):
            case None:
                return None
            case "agent":
                return agent_share(key)
            case "guest":
                return GUESTS
            case _:
                return operator_share(key)

    return share


class Account(Struct, eq=False):
    fd: int
    """Its descriptor in libzmq, which uses the number again for another one."""
    key: str | None = None
    """Public key in Z85, once a message has been read."""
    received: int = 0
    """Bytes that TCP has received."""
    settled: int = 0
    """Lower bound of the bytes that belong to read messages or to no message."""
    heard_turn: int = -1
    """When a message of it was last read."""
    mark: int = 0
    mark_turn: int | None = None
    """libzmq had decoded the first `mark` bytes by then."""
    silent_s: float = 0.0
    unlisted_s: float = 0.0
    closing: bool = False

    @property
    def waiting(self) -> int:
        return max(0, self.received - self.settled)


class Verdict(Struct, frozen=True):
    """`connection` ends."""

    connection: Account
    reason: str
    source: str | None
    """Its key; None for a guest or a stranger."""


class _Gone(Struct, frozen=True):
    """A closed connection whose last messages still wait to be read."""

    bytes: int
    turn: int


class Ledger:
    """All connections of the fleet socket.

    A `turn` is counted up each time that no message was left to be read. What a connection
    sent before the last but one turn is over as soon as a message of it is read after that:
    messages of one connection arrive in order and whole. So the count of what waits cannot
    drift, although libzmq's own heartbeats are in it and never arrive.
    """

    def __init__(self, shares: Quotas, most_connections: int) -> None:
        self._shares, self._most = shares, most_connections
        self._open: dict[int, Account] = {}
        self._gone: list[_Gone] = []
        self._judged_s: float | None = None
        self._judged_turn = -1

    def __iter__(self) -> Iterator[Account]:
        return iter(self._open.values())

    def __len__(self) -> int:
        return len(self._open)

    def get(self, fd: int) -> Account | None:
        return self._open.get(fd)

    def opened(self, fd: int, turn: int) -> Account:
        self.closed(fd, turn)
        connection = self._open[fd] = Account(fd)
        return connection

    def closed(self, fd: int, turn: int) -> None:
        connection = self._open.pop(fd, None)
        if connection is not None and connection.waiting > SLACK_BYTES:
            self._gone.append(_Gone(connection.waiting, turn))

    def read(self, fd: int, key: str, size: int, turn: int) -> None:
        """A message of `size` bytes on the wire was read."""
        connection = self._open.get(fd)
        if connection is not None:
            connection.key = key
            connection.settled += size
            connection.heard_turn = turn

    def reading(self, connection: Account, received: int) -> bool:
        """Note what TCP has received by now. True if `mark` is worth calling as well."""
        connection.received = received
        # A message of an earlier connection with this descriptor may have been counted.
        connection.settled = min(connection.settled, received)
        return connection.waiting > SLACK_BYTES

    def mark(self, connection: Account, unread: int, turn: int) -> None:
        """Note that libzmq has not read the last `unread` bytes; `turn` is read after that."""
        # Two turns: the first may have been counted after the reading but seen before it.
        if connection.mark_turn is not None and connection.heard_turn >= connection.mark_turn + 2:
            connection.settled = max(connection.settled, connection.mark)
            connection.mark_turn = None
        if connection.mark_turn is None:
            connection.mark = max(0, connection.received - unread - READ_BYTES)
            connection.mark_turn = turn

    def judge(self, now: float, turn: int) -> list[Verdict]:
        """Connections to close. `turn` must be read before the messages passed to `read`."""
        step_s = min(_STEP_S, now - self._judged_s) if self._judged_s is not None else 0.0
        looked = turn != self._judged_turn
        self._judged_s, self._judged_turn = now, turn
        found: list[Verdict] = []
        groups: dict[str, list[tuple[Account, Quota]]] = {}
        for connection in self._open.values():
            if connection.closing:
                continue
            share = SILENT if connection.key is None else self._shares(connection.key)
            if share is None:
                connection.unlisted_s += step_s
                if connection.unlisted_s >= GRACE_S:
                    found.append(self.verdict(connection, "its key is no longer enrolled"))
                    continue
                share = GUESTS
            else:
                connection.unlisted_s = 0.0
            if connection.key is None and looked:
                connection.silent_s += step_s
            if connection.waiting > share.waiting_bytes:
                reason = f"{connection.waiting >> 10} KiB of it were not a whole message yet"
                found.append(self.verdict(connection, reason))
            elif connection.silent_s > SILENCE_S:
                found.append(self.verdict(connection, f"not a word in {SILENCE_S:.0f} s"))
            else:
                groups.setdefault(share.group, []).append((connection, share))
        found += self._crowded(groups)
        found += self._together(groups, turn, {id(v.connection) for v in found})
        for verdict in found:
            verdict.connection.closing = True
        return found

    def verdict(self, connection: Account, reason: str) -> Verdict:
        key = connection.key
        share = self._shares(key) if key is not None else None
        return Verdict(connection, reason, key if share is not None and share != GUESTS else None)

    def _crowded(self, groups: dict[str, list[tuple[Account, Quota]]]) -> Iterator[Verdict]:
        """The oldest of too many: an honest peer that dials again has the newest."""
        for members in groups.values():
            most = members[0][1].connections
            for connection, _ in members[: max(0, len(members) - most)]:
                yield self.verdict(connection, f"more than {most} connections at once")
        spare = len(self._open) - self._most
        silent = [connection for connection, _ in groups.get(SILENT.group, [])]
        for connection in silent[: max(0, spare)]:
            yield self.verdict(connection, f"more than {self._most} connections in all")

    def _together(
        self, groups: dict[str, list[tuple[Account, Quota]]], turn: int, ending: set[int]
    ) -> Iterator[Verdict]:
        """The worst, by their own shares, until the others fit."""
        self._gone = [gone for gone in self._gone if turn < gone.turn + 2]
        left = [
            pair for members in groups.values() for pair in members if id(pair[0]) not in ending
        ]
        total = sum(gone.bytes for gone in self._gone) + sum(c.waiting for c, _ in left)
        if total <= TOTAL_BYTES:
            return
        left = [(c, share) for c, share in left if c.waiting > share.fair_bytes]
        left.sort(key=lambda pair: pair[0].waiting / pair[1].waiting_bytes, reverse=True)
        for connection, _ in left:
            if total <= TOTAL_BYTES:
                return
            total -= connection.waiting
            yield self.verdict(connection, f"{TOTAL_BYTES >> 20} MiB of all peers wait to be read")
