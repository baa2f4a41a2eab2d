"""How many chunks may be on their way at a time: fair to every peer, bounded in total."""

import time
from collections import deque
from collections.abc import Callable, Hashable
from typing import Generic, NamedTuple, TypeVar

from msgspec import Struct

from flctl.wire.messages import Digest, Fetch

Peer = TypeVar("Peer", bound=Hashable)

CLOSING_OFFSET = 2**40
"""A Fetch from here asks for nothing: it says that all chunks asked for have arrived."""
LAPSE_S = 5.0


def closing(blob: Digest) -> Fetch:
    """What the receiver of a whole blob sends last."""
    return Fetch(blob=blob, offset=CLOSING_OFFSET, length=1)


class Credit(Generic[Peer]):
    """At most `window` chunks outstanding per peer and `budget` in total.

    A peer with nothing outstanding always gets one, whatever the others hold: nobody
    starves, and the total stays below `budget` plus one chunk per peer.
    """

    def __init__(self, budget: int, window: int) -> None:
        self.budget, self.window = budget, window
        self.total = 0
        self._outstanding: dict[Peer, int] = {}

    def may_send(self, peer: Peer) -> bool:
        mine = self._outstanding.get(peer, 0)
        return mine == 0 or (self.total < self.budget and mine < self.window)

    def sent(self, peer: Peer) -> None:
        self._outstanding[peer] = self._outstanding.get(peer, 0) + 1
        self.total += 1

    def returned(self, peer: Peer, count: int = 1) -> None:
        """Up to `count` chunks of `peer` are not on their way any more."""
        mine = self._outstanding.get(peer, 0)
        count = min(count, mine)
        self.total -= count
        if count < mine:
            self._outstanding[peer] = mine - count
        else:
            self._outstanding.pop(peer, None)

    def forget(self, peer: Peer) -> None:
        self.total -= self._outstanding.pop(peer, 0)

    def outstanding(self, peer: Peer) -> int:
        return self._outstanding.get(peer, 0)


class _Transfer(Struct):
    """What is known about one peer pulling one blob."""

    asked: int = 0
    sent: int = 0
    arrived: int = 0
    heard_s: float = 0.0


class Turn(NamedTuple, Generic[Peer]):
    peer: Peer
    fetch: Fetch


class ServeQueue(Generic[Peer]):
    """Fetches that wait for credit, served round robin over the peers.

    Chunks are not acknowledged, so what is on its way is worked out from what comes back:

    - A receiver has at most `credit.window` Fetches unanswered. So its n-th Fetch of a blob
      proves that n − window chunks of it have arrived.
    - After the last chunk it sends `closing(blob)`: all of them have.
    - A peer that goes away is forgotten, with all that it had outstanding.
    - One that gives a blob up in silence (a cancelled round) is taken to have received what
      was sent when it has asked for nothing for `lapse_s`: the connection is either drained
      by then or about to be cut by its heartbeat.

    So each chunk is given back exactly once, and none is held for ever. When a receiver asks
    for the same bytes again, the count can be ahead of the truth by one window, no more.
    """

    def __init__(
        self,
        credit: Credit[Peer],
        lapse_s: float = LAPSE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._credit, self._lapse_s, self._clock = credit, lapse_s, clock
        self._waiting: dict[Peer, deque[Fetch]] = {}
        self._transfers: dict[Peer, dict[Digest, _Transfer]] = {}

    def add(self, peer: Peer, fetch: Fetch) -> None:
        if fetch.offset == CLOSING_OFFSET:
            self._close(peer, fetch.blob)
            return
        transfer = self._transfers.setdefault(peer, {}).setdefault(fetch.blob, _Transfer())
        transfer.asked += 1
        transfer.heard_s = self._clock()
        self._arrived(peer, transfer, transfer.asked - self._credit.window)
        queue = self._waiting.setdefault(peer, deque())
        # An honest peer has one window waiting; one that has more asks twice or is a flood.
        if len(queue) < 2 * self._credit.window and fetch not in queue:
            queue.append(fetch)

    def next(self) -> Turn[Peer] | None:
        """Whose chunk goes out now; it counts as sent. None: nobody's."""
        self._lapse()
        for peer in list(self._waiting):
            if not self._credit.may_send(peer):
                continue
            queue = self._waiting.pop(peer)
            fetch = queue.popleft()
            if queue:
                self._waiting[peer] = queue  # at the end: it is the others' turn
            self._transfers[peer][fetch.blob].sent += 1
            self._credit.sent(peer)
            return Turn(peer, fetch)
        return None

    def unsent(self, turn: Turn[Peer]) -> None:
        """The turn could not be used now (a full queue): it comes again."""
        transfers = self._transfers.get(turn.peer)
        if transfers is None or turn.fetch.blob not in transfers:
            return
        transfers[turn.fetch.blob].sent -= 1
        self._credit.returned(turn.peer)
        self._waiting.setdefault(turn.peer, deque()).appendleft(turn.fetch)

    def forget(self, peer: Peer) -> None:
        """The peer is gone, or has been told to ask again."""
        self._waiting.pop(peer, None)
        self._transfers.pop(peer, None)
        self._credit.forget(peer)

    def _arrived(self, peer: Peer, transfer: _Transfer, count: int) -> None:
        """At least `count` chunks of the transfer are with the receiver."""
        count = min(count, transfer.sent)
        if count > transfer.arrived:
            self._credit.returned(peer, count - transfer.arrived)
            transfer.arrived = count

    def _close(self, peer: Peer, blob: Digest) -> None:
        transfers = self._transfers.get(peer, {})
        transfer = transfers.pop(blob, None)
        if transfer is None:
            return
        self._arrived(peer, transfer, transfer.sent)
        queue = deque(fetch for fetch in self._waiting.pop(peer, ()) if fetch.blob != blob)
        if queue:
            self._waiting[peer] = queue
        if not transfers:
            del self._transfers[peer]

    def _lapse(self) -> None:
        now = self._clock()
        for peer in [peer for peer in self._transfers if peer not in self._waiting]:
            for blob, transfer in list(self._transfers[peer].items()):
                if now - transfer.heard_s >= self._lapse_s:
                    self._close(peer, blob)
