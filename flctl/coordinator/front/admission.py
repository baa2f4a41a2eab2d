"""Peers whose key is not an agent's: guests that want to join, operators, and revoked keys."""

import logging
from collections.abc import Callable
from typing import Literal, TypeAlias

from flctl.coordinator.front.peers import Peers
from flctl.coordinator.front.serving import Serving
from flctl.coordinator.store.audit import Actor, Audit
from flctl.errors import FlctlError, StateError
from flctl.transport.allowance import Allowance
from flctl.transport.allowlist import Entry
from flctl.transport.channel import Incoming
from flctl.transport.gate import STRANGER, Gate
from flctl.transport.keypair import shown
from flctl.transport.keys import Keyring
from flctl.wire.messages import Ask, Fetch, Hello, Join, Joined, Message, Refused

logger = logging.getLogger(__name__)

RETRY_S = 30.0
Reason: TypeAlias = Literal["guest", "token", "role", "revoked"]
JOINS = 20
"""Joins allowed per minute per agent key. Each one that changes anything rewrites the key list."""
GUEST_JOINS = 600
"""Joins allowed per minute for all guests combined, since new keys cost nothing to make. A fleet
of hundreds joins at once when it is switched on."""


class Admission:
    def __init__(
        self,
        peers: Peers,
        keyring: Keyring,
        serving: Serving,
        on_ask: Callable[[Incoming, Ask, str], None],
        gate: Gate,
        clock: Callable[[], float],
        audit: Audit,
    ) -> None:
        self._peers, self._keyring, self._serving = peers, keyring, serving
        self._on_ask, self._gate, self._audit = on_ask, gate, audit
        self._joins = Allowance(JOINS, clock)
        self._guest_joins = Allowance(GUEST_JOINS, clock)

    def on_guest(self, incoming: Incoming, message: Message) -> None:
        """An unlisted key may ask to join with a token, and nothing else."""
        if isinstance(message, Join):
            self.on_join(incoming, message, message.name)
            return
        if isinstance(message, Ask):
            self._audit.refused(_actor(incoming, None), message.what, "the key is not enrolled")
        self._keyring.note_unknown(incoming.key)
        text = (
            "this key is not enrolled: on the coordinator run  "
            f"flctl keys add NAME {shown(incoming.key)}  (or let it join with a token)"
        )
        self._refuse(incoming, "guest", text)

    def on_join(self, incoming: Incoming, join: Join, name: str | None) -> None:
        """Handle a Join: of a guest, or of an agent that asks again for its shard."""
        key, known = incoming.key, self._keyring.name_of(incoming.key)
        try:
            entry = self._keyring.joined_already(join.token, key, name, join.shard)
            if entry is None:
                joins, who = (self._joins, known) if known else (self._guest_joins, STRANGER)
                if joins.spend(who) is None:
                    text = "too many agents are joining at once; this one joins at its next try"
                    self._refuse(incoming, "guest", text)  # the token may be right: it waits
                    return
                entry = self._redeem(incoming, join, name, known)
        except FlctlError as error:
            if not isinstance(error, StateError):
                self._audit.refused(_actor(incoming, known), "join", str(error))
            self._gate.warning(
                logger, known or STRANGER, "join refused name=%s: %s", known or join.name, error
            )
            # A disk that fails here is not the token's fault: it is tried again.
            reason: Reason = "guest" if isinstance(error, StateError) else "token"
            if known is None and not self._keyring.is_revoked(incoming.key):
                self._keyring.note_unknown(incoming.key)  # it may wait for a shard
            self._refuse(incoming, reason, str(error))
            return
        shard = entry.shard if join.shard else None
        token = entry.token or "-"
        self._gate.info(
            logger, entry.name, "agent=%s joined shard=%s token=%s", entry.name, shard, token
        )
        self._peers.send(incoming.peer, Joined(name=entry.name, shard=shard))

    def _redeem(self, incoming: Incoming, join: Join, name: str | None, known: str | None) -> Entry:
        """Raises FlctlError: also when the audit file cannot be written."""
        token = self._keyring.open_token(join.token)
        args = {"name": join.name, "token": token.id if token else None, "shard": join.shard}
        with self._audit.action(_actor(incoming, known), "join", args) as detail:
            entry = self._keyring.redeem(join.token, incoming.key, name, join.shard)
            detail |= {"name": entry.name, "shard": str(entry.shard) if entry.shard else None}
        return entry

    def on_operator(self, incoming: Incoming, role: str, name: str, message: Message) -> None:
        match message:
            case Ask():
                self._on_ask(incoming, message, role)
            case Fetch():
                self._serving.on_fetch(incoming.peer, message)
            case Hello() | Join():
                text = (
                    f"this key is enrolled as {role}, not as an agent: give the agent a key of its "
                    f"own (another --state), or on the coordinator run  flctl keys revoke {name}  "
                    f"and then  flctl keys add {name} {shown(incoming.key)}"
                )
                self._refuse(incoming, "role", text)
            case _:
                self._peers.complain(name, f"an operator may not send {type(message).__name__}")

    def on_unlisted(self, incoming: Incoming, message: Message) -> None:
        """A key that was enrolled, and is no longer listed."""
        if isinstance(message, Ask):
            why, by = "the key was revoked", Actor("", "revoked", incoming.origin, incoming.key)
            self._audit.refused(by, message.what, why)
        revoked = self._keyring.is_revoked(incoming.key)
        text = "this key was revoked" if revoked else "this key is not enrolled"
        self._refuse(incoming, "revoked", text)

    def _refuse(self, incoming: Incoming, reason: Reason, text: str) -> None:
        self._peers.send(incoming.peer, Refused(reason=reason, message=text, retry_s=RETRY_S))


def _actor(incoming: Incoming, known: str | None) -> Actor:
    role = "agent" if known is not None else "guest"
    return Actor(known or "", role, incoming.origin, incoming.key)
