"""How many chunks may be on their way at a time: fair to every peer, bounded in total."""

import time
from collections import deque
from collections.abc import Callable, Container, Hashable
from typing import Generic, NamedTuple, TypeVar

from msgspec import Struct

from flctl.wire.messages import CHUNK_BYTES, Digest, Fetch

Peer = TypeVar("Peer", bound=Hashable)

CLOSING_OFFSET = 2**40
"""A Fetch from here asks for nothing: it is a receipt."""
LAPSE_S = 5.0


def receipt(blob: Digest, count: int) -> Fetch:
    """`count` chunks have arrived, and there was nothing more to ask for in their place."""
    return Fetch(blob=blob, offset=CLOSING_OFFSET, length=min(count, CHUNK_BYTES))


def closing(blob: Digest) -> Fetch:
    """What the receiver of a whole blob sends last: all chunks have arrived."""
    return receipt(blob, CHUNK_BYTES)


class Credit(Generic[Peer]):
    """At most `window` chunks outstanding per peer and `budget` in total.

    A peer with nothing outstanding always gets one, whatever the others hold: no peer
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
        """Up to `count` chunks of `peer` are no longer in flight."""
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
    """What is known about one peer pulling one blob, in chunks."""

    asked: int = 0
    receipts: int = 0
    sent: int = 0
    arrived: int = 0
    moved_s: float = 0.0


class Turn(NamedTuple, Generic[Peer]):
    peer: Peer
    fetch: Fetch


class ServeQueue(Generic[Peer]):
    """Fetches that wait for credit, served round robin over the peers.

    What is on its way is worked out from what comes back. A receiver keeps one window of
    Fetches unanswered as long as there is something to ask for; after that it sends a receipt
    for each chunk. So asked − window + receipts chunks of a blob have arrived, exactly. After
    the last one comes `closing`, which settles the account whatever went wrong before.

    Nothing is held for ever: a peer that goes away is forgotten; a transfer in which nothing
    has moved for `lapse_s` (a cancelled round, a stalled receiver) is taken to have arrived.
    Then, and when a receiver asks for the same bytes again, the account can be ahead of the
    truth by one window of that peer, no more.
    """

    def __init__(
        self,
        credit: Credit[Peer],
        lapse_s: float = LAPSE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._credit, self._lapse_s, self._clock = credit, lapse_s, clock
        self._waiting: dict[Peer, deque[Fetch]] = {}
        self._transfers: dict[tuple[Peer, Digest], _Transfer] = {}

    def add(self, peer: Peer, fetch: Fetch) -> None:
        """Take in what a peer asks for or acknowledges."""
        if fetch.offset == CLOSING_OFFSET:
            self._on_receipt(peer, fetch)
            return
        queue = self._waiting.setdefault(peer, deque())
        # An honest peer has one window waiting; one that has more is a flood.
        if fetch in queue or len(queue) >= 2 * self._credit.window:
            return
        queue.append(fetch)
        transfer = self._transfers.setdefault((peer, fetch.blob), _Transfer())
        transfer.asked += 1
        self._settle(peer, transfer)

    def next(self, but: Container[Peer] = ()) -> Turn[Peer] | None:
        """The peer whose chunk is sent next, `but` none of these; it counts as sent."""
        self._lapse()
        for peer in self._waiting:
            if peer not in but and self._credit.may_send(peer):
                return self._take_turn(peer)
        return None

    def unsent(self, turn: Turn[Peer]) -> None:
        """The turn could not be used now (a full queue): it comes again."""
        transfer = self._transfers.get((turn.peer, turn.fetch.blob))
        if transfer is None:
            return
        transfer.sent -= 1
        self._credit.returned(turn.peer)
        self._waiting.setdefault(turn.peer, deque()).appendleft(turn.fetch)

    def forget(self, peer: Peer) -> None:
        """The peer is gone, or was asked to ask again."""
        self._waiting.pop(peer, None)
        for key in [key for key in self._transfers if key[0] == peer]:
            del self._transfers[key]
        self._credit.forget(peer)

    def _take_turn(self, peer: Peer) -> Turn[Peer]:
        queue = self._waiting.pop(peer)
        fetch = queue.popleft()
        if queue:
            self._waiting[peer] = queue  # at the end: it is the others' turn
        transfer = self._transfers[peer, fetch.blob]
        transfer.sent += 1
        transfer.moved_s = self._clock()
        self._credit.sent(peer)
        return Turn(peer, fetch)

    def _on_receipt(self, peer: Peer, fetch: Fetch) -> None:
        transfer = self._transfers.get((peer, fetch.blob))
        if transfer is None:
            return
        if fetch == closing(fetch.blob):
            self._write_off(peer, transfer)
            self._end(peer, fetch.blob)
        else:
            transfer.receipts += fetch.length
            self._settle(peer, transfer)

    def _settle(self, peer: Peer, transfer: _Transfer) -> None:
        """Give back what is now known to have arrived."""
        transfer.moved_s = self._clock()
        beyond = max(0, transfer.asked - self._credit.window)
        arrived = min(beyond + transfer.receipts, transfer.sent)
        if arrived > transfer.arrived:
            self._credit.returned(peer, arrived - transfer.arrived)
            transfer.arrived = arrived

    def _write_off(self, peer: Peer, transfer: _Transfer) -> None:
        self._credit.returned(peer, transfer.sent - transfer.arrived)
        transfer.arrived = transfer.sent

    def _end(self, peer: Peer, blob: Digest) -> None:
        del self._transfers[peer, blob]
        queue = deque(fetch for fetch in self._waiting.pop(peer, ()) if fetch.blob != blob)
        if queue:
            self._waiting[peer] = queue

    def _lapse(self) -> None:
        oldest = self._clock() - self._lapse_s
        for (peer, blob), transfer in list(self._transfers.items()):
            if transfer.moved_s > oldest:
                continue
            self._write_off(peer, transfer)
            if all(fetch.blob != blob for fetch in self._waiting.get(peer, ())):
                del self._transfers[peer, blob]
