"""Messages to and from every peer: each in its protocol, and a note of what one does wrong."""

import logging

from flctl import __version__
from flctl.core.roster import Roster
from flctl.errors import ProtocolMismatch
from flctl.transport.channel import Frame, Hub, Incoming, Sent
from flctl.transport.gate import Gate
from flctl.wire import framing
from flctl.wire.messages import Message

logger = logging.getLogger(__name__)

OLDER_PEERS = 10_000


class Peers:
    def __init__(self, hub: Hub, roster: Roster, gate: Gate) -> None:
        self._hub, self._roster, self._gate = hub, roster, gate
        self.decode = framing.to_coordinator()
        self._older: dict[bytes, int] = {}
        """Protocols of those that do not speak the newest; they are answered in it."""

    def read(self, incoming: Incoming) -> tuple[int, Message, Frame | None]:
        """The protocol, the message and its payload.

        Raises MalformedMessage; ProtocolMismatch once the peer was sent the supported versions.
        """
        try:
            protocol, message, payload = self.decode(incoming.frames)
        except ProtocolMismatch:
            oldest, newest = self.decode.oldest, self.decode.newest
            self._hub.send(incoming.peer, framing.notice(__version__, oldest, newest))
            raise
        if protocol != framing.PROTOCOL:
            self._older[incoming.peer] = protocol
            while len(self._older) > OLDER_PEERS:
                self._older.pop(next(iter(self._older)))
        return protocol, message, payload

    def encode(self, peer: bytes, message: Message, payload: Frame | None = None) -> list[Frame]:
        return framing.encode(message, payload, self._older.get(peer, framing.PROTOCOL))

    def send(self, peer: bytes, message: Message, payload: Frame | None = None) -> Sent:
        return self._hub.send(peer, self.encode(peer, message, payload))

    def on_gone(self, peer: bytes) -> None:
        self._older.pop(peer, None)

    def complain(self, name: str, text: str) -> None:
        """Log what a peer did wrong, and show it in its status."""
        member = self._roster.members.get(name)
        if member is not None:
            member.note = text[:500]
        self._gate.warning(logger, name, "agent=%s refused: %s", name, text)
