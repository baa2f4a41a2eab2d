"""What operators are told: each in order, large answers in parts, as fast as it is taken.

A fleet of hundreds has a status of hundreds of kilobytes, a long run a journal of many
megabytes: more than one message, or the queue of a slow connection, has room for.
"""

from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Struct, field

from flctl.errors import RunError
from flctl.transport.channel import Sent
from flctl.wire.framing import HEADER_BYTES
from flctl.wire.messages import CHUNK_BYTES, Answer, AnswerPart, Message, RunEvent

KEPT_BYTES = 128 * 1024 * 1024
"""Of one operator that does not read; beyond it everything is dropped, and it asks anew."""
MESSAGE_BYTES = 1024
"""What a message without payload is taken to cost."""

Send = Callable[[bytes, Message, bytes | None], Sent]


class _Queue(Struct):
    messages: deque[tuple[Message, bytes | None]] = field(default_factory=deque)
    cost: int = 0
    """Bytes, about."""


class Outgoing:
    def __init__(self, send: Send) -> None:
        self._send = send
        self._waiting: dict[bytes, _Queue] = {}

    def answer(self, peer: bytes, question: int, body: Any) -> None:
        """Raises RunError when it is too large for any connection."""
        data = msgspec.msgpack.encode(body)
        if len(data) <= HEADER_BYTES - MESSAGE_BYTES:
            self.put(peer, Answer(id=question, body=body))
            return
        if len(data) > KEPT_BYTES // 2:
            raise RunError(
                f"the answer has {len(data) >> 20} MB; read the files of the run instead, "
                "in the coordinator's state folder"
            )
        self._put_in_parts(peer, question, data)

    def event(self, peer: bytes, question: int, event: dict[str, Any]) -> bool:
        """To whoever watches; a round of hundreds of agents is larger than one message.

        False as `put` says it.
        """
        data = msgspec.msgpack.encode(event)
        if len(data) <= HEADER_BYTES - MESSAGE_BYTES:
            return self.put(peer, RunEvent(id=question, event=event))
        return self._put_in_parts(peer, question, data)

    def _put_in_parts(self, peer: bytes, question: int, data: bytes) -> bool:
        for start in range(0, len(data), CHUNK_BYTES):
            part = AnswerPart(id=question, last=start + CHUNK_BYTES >= len(data))
            if not self.put(peer, part, data[start : start + CHUNK_BYTES]):
                return False
        return True

    def put(self, peer: bytes, message: Message, payload: bytes | None = None) -> bool:
        """False when the peer is gone, or reads so little that it is given up."""
        queue = self._waiting.setdefault(peer, _Queue())
        queue.messages.append((message, payload))
        queue.cost += MESSAGE_BYTES + len(payload or b"")
        return self._pump(peer)

    def pump(self) -> None:
        """Go on where a connection was slow."""
        for peer in list(self._waiting):
            self._pump(peer)

    def _pump(self, peer: bytes) -> bool:
        queue = self._waiting[peer]
        while queue.messages:
            message, payload = queue.messages[0]
            sent = self._send(peer, message, payload)
            if sent is Sent.SLOW and queue.cost <= KEPT_BYTES:
                return True
            if sent is not Sent.OK:
                del self._waiting[peer]
                return False
            queue.messages.popleft()
            queue.cost -= MESSAGE_BYTES + len(payload or b"")
        del self._waiting[peer]
        return True
