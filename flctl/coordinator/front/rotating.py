"""Sends agents and operators the server's new key while both are valid, and ends that in time."""

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol

from flctl.coordinator.front.peers import Peers
from flctl.core.roster import Roster
from flctl.errors import FlctlError, UsageError
from flctl.formats import few
from flctl.transport.keypair import KeyPair, shown
from flctl.transport.rotation import KeyRotation
from flctl.wire import messages as wire

logger = logging.getLogger(__name__)

OPERATORS = 256
"""Number of connections remembered as informed."""
RETRY_S = 60.0
LEAVE_S = 2.0
"""Time for the last messages on the connections of a key that is no longer valid."""


class Listener(Protocol):
    """The part of the hub that answers with a key."""

    def listen_also(self, keys: KeyPair) -> None: ...
    def listen_only(self, keys: KeyPair) -> None: ...


class Rotating:
    """Sends a connecting peer the coordinator's keys, if it may not know them: an agent after
    its Hello, an operator with its first question."""

    def __init__(
        self,
        keys: KeyRotation,
        listener: Listener,
        peers: Peers,
        roster: Roster,
        enrolled: Callable[[], list[str]],
        on_new_key: Callable[[], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._keys, self._listener = keys, listener
        self._peers, self._roster, self._enrolled = peers, roster, enrolled
        self._on_new_key, self._clock = on_new_key, clock
        self._told: OrderedDict[bytes, None] = OrderedDict()
        self._next_look = 0.0
        self._close_at: float | None = None
        self._listen()

    def on_hello(self, peer: bytes, hello: wire.Hello) -> None:
        stored, good = hello.server_keys, self._keys.public
        if stored != good and (stored or len(good) > 1):
            self._peers.send(peer, wire.ServerKeys(keys=good))

    def on_operator(self, peer: bytes) -> None:
        if self._keys.rotation is None or peer in self._told:
            return
        self._told[peer] = None
        while len(self._told) > OPERATORS:
            self._told.popitem(last=False)
        self._peers.send(peer, wire.ServerKeys(keys=self._keys.public))

    def on_time(self, now: float) -> None:
        """End the overlap when its time is over. `now` is of a clock that is not set."""
        if self._close_at is not None and now >= self._close_at:
            self._close_at = None
            try:
                self._listener.listen_only(self._keys.current)
            except FlctlError as error:
                logger.error("server key: %s", error)
        found = self._keys.overlap
        if found is None or self._clock() < found.ends or now < self._next_look:
            return
        self._next_look = now + RETRY_S
        try:
            self.finish(now, anyway=True)
        except FlctlError as error:
            logger.error("the server key is not replaced yet: %s", error)

    def begin(self, overlap_s: float) -> None:
        self._keys.begin(overlap_s)  # a refusal changes nothing
        self._close_at = None
        self._listener.listen_only(self._keys.current)
        try:
            self._listen()
        except FlctlError:
            self._keys.abort()
            raise
        logger.warning("server key: %s replaces it; both are valid", shown(self._keys.public[0]))
        self._tell_all()

    def finish(self, now: float, anyway: bool = False) -> None:
        """Raises UsageError while agents are not known to have the new key, unless `anyway`."""
        missing = self.missing() if self._keys.overlap is not None else []
        if missing and not anyway:
            raise UsageError(
                f"{few(missing)} would be locked out, since they may not have the new key: wait "
                "for them, or add --anyway and give them the new key with: "
                "flctl deploy --limit HOST"
            )
        self._keys.finish()
        self._settle(now)
        logger.warning("server key: only %s is valid now", shown(self._keys.current.public))
        for name in missing:
            logger.warning("agent=%s is not known to have the new server key", name)

    def abort(self, now: float) -> None:
        self._keys.abort()
        self._settle(now)
        logger.warning("server key: it stays %s", shown(self._keys.current.public))

    def missing(self) -> list[str]:
        """Agents that are not known to have the new key."""
        found = self._keys.overlap
        new = "" if found is None else found.new
        members = self._roster.members
        hellos = {name: members[name].hello for name in self._enrolled() if name in members}
        has = {name for name, hello in hellos.items() if hello and new in hello.server_keys}
        return [name for name in self._enrolled() if name not in has]

    def shown(self) -> dict[str, Any] | None:
        """For `flctl status`; None without an overlap."""
        found = self._keys.overlap
        if found is None:
            return None
        missing = self.missing()
        return {
            "new_key": found.new,
            "ends": found.ends,
            "ends_in_s": round(found.ends - self._clock(), 1),
            "have": len(self._enrolled()) - len(missing),
            "missing": missing,
        }

    def _settle(self, now: float) -> None:
        """One key is left. Those who are here hear it before their connection is ended."""
        self._told.clear()
        self._on_new_key()
        self._tell_all()
        self._close_at = now + LEAVE_S

    def _listen(self) -> None:
        if (pair := self._keys.next) is not None:
            self._listener.listen_also(pair)

    def _tell_all(self) -> None:
        for member in self._roster.connected():
            if member.peer is not None and member.hello is not None:
                self.on_hello(member.peer, member.hello)
