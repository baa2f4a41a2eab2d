"""Messages to operators: in order, large answers in parts, as fast as each connection takes them.

A fleet of hundreds has a status of hundreds of kilobytes, a long run a journal of many
megabytes: more than one message, or the queue of a slow connection, has room for. What is not
taken yet is kept as the bytes that will travel, and all of it together has one bound.
"""

from collections import Counter, deque
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct, field

from flctl.core.stream import Published
from flctl.errors import RunError
from flctl.transport.channel import Frame, Sent
from flctl.wire.framing import HEADER_BYTES
from flctl.wire.messages import CHUNK_BYTES, Answer, AnswerPart, Message, RunEvent

KEPT_BYTES = 32 * 1024 * 1024
"""Maximum kept for all operators that do not read. Beyond it, the queue of the operator with the
most is dropped; that operator asks again."""
ANSWER_BYTES = KEPT_BYTES // 2
"""The largest answer."""
MESSAGE_BYTES = 512
"""Approximate overhead of a message, in addition to its bytes."""
ROOM = HEADER_BYTES - 1024
"""For the body of a message."""

Encode = Callable[[bytes, Message, Frame | None], list[Frame]]
Send = Callable[[bytes, list[Frame]], Sent]


class Recipient(NamedTuple):
    """Address of an answer."""

    peer: bytes
    owner: str
    """Its key; what is kept for all connections of a key is counted together."""


class _Queue(Struct):
    owner: str
    waiting: deque[list[Frame]] = field(default_factory=deque)
    cost: int = 0
    """Bytes."""


class Outbox:
    def __init__(self, encode: Encode, send: Send) -> None:
        self._encode, self._send = encode, send
        self._queues: dict[bytes, _Queue] = {}
        self.kept = 0
        """Bytes in memory."""
        self.on_dropped: Callable[[bytes], None] = lambda _: None
        """Called with a peer that is gone, or for which nothing is kept."""

    def has_backlog(self, peer: bytes) -> bool:
        """The peer has not taken what it was sent before."""
        return peer in self._queues

    def answer(self, to: Recipient, question: int, body: Any) -> None:
        """Raises RunError when it is too large to be kept."""
        data = msgspec.msgpack.encode(body)
        if len(data) > ANSWER_BYTES:
            raise RunError(f"the answer has {len(data) >> 20} MB, more than the limit")
        if len(data) <= ROOM:
            self.put(to, Answer(id=question, body=msgspec.Raw(data)))
        else:
            self._put_in_parts(to, question, data)

    def event(self, to: Recipient, question: int, told: Published) -> bool:
        """Send to all watchers; a round of hundreds of agents is larger than one message.

        False as `put` says it.
        """
        data = msgspec.msgpack.encode(told)
        if len(data) <= ROOM:
            return self.put(to, RunEvent(id=question, event=msgspec.Raw(data)))
        return self._put_in_parts(to, question, data)

    def _put_in_parts(self, to: Recipient, question: int, data: bytes) -> bool:
        view = memoryview(data)
        for start in range(0, len(data), CHUNK_BYTES):
            part = AnswerPart(id=question, last=start + CHUNK_BYTES >= len(data))
            if not self.put(to, part, view[start : start + CHUNK_BYTES]):
                return False
        return True

    def put(self, to: Recipient, message: Message, payload: Frame | None = None) -> bool:
        """False when the peer is gone, or reads so little that it is given up."""
        frames = self._encode(to.peer, message, payload)
        queue = self._queues.setdefault(to.peer, _Queue(to.owner))
        queue.waiting.append(frames)
        queue.cost += _cost(frames)
        self.kept += _cost(frames)
        self._pump(to.peer)
        if self.kept > KEPT_BYTES:
            self.drop(self._largest())
        return self._queues.get(to.peer) is queue or not queue.waiting

    def _largest(self) -> bytes:
        """The largest queue of the owner with the most."""
        sums: Counter[str] = Counter()
        for queue in self._queues.values():
            sums[queue.owner] += queue.cost
        owner = max(sums, key=lambda name: sums[name])
        mine = [peer for peer, queue in self._queues.items() if queue.owner == owner]
        return max(mine, key=lambda peer: self._queues[peer].cost)

    def pump(self) -> None:
        """Continue where a connection was slow."""
        for peer in list(self._queues):
            self._pump(peer)

    def _pump(self, peer: bytes) -> None:
        queue = self._queues[peer]
        while queue.waiting:
            sent = self._send(peer, queue.waiting[0])
            if sent is Sent.SLOW:
                return
            if sent is not Sent.OK:
                self.drop(peer)
                return
            cost = _cost(queue.waiting.popleft())
            queue.cost -= cost
            self.kept -= cost
        del self._queues[peer]

    def drop(self, peer: bytes) -> None:
        """Keep nothing for this peer."""
        queue = self._queues.pop(peer, None)
        if queue is not None:
            self.kept -= queue.cost
        self.on_dropped(peer)


def _cost(frames: list[Frame]) -> int:
    return MESSAGE_BYTES + sum(map(len, frames))
