"""Fairness among peers, and an account of chunks under way that never leaks."""

import hashlib
import random
from collections import Counter, deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flctl.transport.blobs import Credit, Download, ServeQueue
from flctl.transport.credit import LAPSE_S, closing, receipt
from flctl.wire.messages import Fetch

WINDOW = 4
BLOB = "ab" * 32
OTHER = "cd" * 32


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def credit():
    return Credit(budget=6, window=WINDOW)


@pytest.fixture
def queue(credit, clock):
    return ServeQueue(credit, clock=clock)


def fetch(number, blob=BLOB):
    return Fetch(blob=blob, offset=number * 100, length=100)


def drain(queue):
    turns = []
    while (turn := queue.next()) is not None:
        turns.append(turn)
    return turns


def test_a_peer_with_nothing_under_way_always_gets_one(credit):
    """The budget stops those who have something; nobody starves."""
    for _ in range(WINDOW):
        assert credit.may_send("a")
        credit.sent("a")
    assert not credit.may_send("a")
    for _ in range(2):
        credit.sent("b")
    assert not credit.may_send("b")
    assert credit.may_send("c")


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcde"), st.sampled_from(["send", "return", "forget"]))))
def test_the_total_is_the_sum_of_the_parts_and_bounded(steps):
    """Below budget plus one per peer, and never below nothing."""
    credit = Credit(budget=3, window=2)
    for peer, step in steps:
        if step == "send" and credit.may_send(peer):
            credit.sent(peer)
        elif step == "return":
            credit.returned(peer)
        elif step == "forget":
            credit.forget(peer)
        parts = [credit.outstanding(peer) for peer in "abcde"]
        assert sum(parts) == credit.total <= 3 + 5
        assert all(0 <= part <= 2 for part in parts)
    for peer in "abcde":
        credit.forget(peer)
    assert credit.total == 0


def test_peers_take_turns(queue):
    """One that asks for much does not keep the next one waiting."""
    for number in range(WINDOW):
        queue.add(b"greedy", fetch(number))
    queue.add(b"modest", fetch(0))
    assert [turn.peer for turn in drain(queue)][:3] == [b"greedy", b"modest", b"greedy"]


def test_a_peer_is_served_in_the_order_of_its_asking(queue):
    """Chunks go out as they were asked for."""
    for number in (2, 0, 1):
        queue.add(b"a", fetch(number))
    assert [turn.fetch.offset for turn in drain(queue)] == [200, 0, 100]


def test_the_first_window_is_not_given_back_until_the_next_request(queue, credit):
    """The fifth request proves that the first of four has arrived, the sixth the second."""
    for number in range(WINDOW):
        queue.add(b"a", fetch(number))
    assert len(drain(queue)) == credit.total == WINDOW
    for number in (4, 5):
        queue.add(b"a", fetch(number))
        assert credit.total == WINDOW - 1
        assert len(drain(queue)) == 1
        assert credit.total == WINDOW


def test_the_closing_request_gives_everything_back(queue, credit):
    """All chunks have arrived then; nothing is sent for it."""
    for number in range(3):
        queue.add(b"a", fetch(number))
    drain(queue)
    queue.add(b"a", closing(BLOB))
    assert credit.total == 0
    assert queue.next() is None
    queue.add(b"a", closing(BLOB))
    assert credit.total == 0


def test_two_blobs_of_one_peer_are_counted_apart(queue, credit):
    """Closing one leaves the other under way."""
    for number in range(2):
        queue.add(b"a", fetch(number))
        queue.add(b"a", fetch(number, OTHER))
    drain(queue)
    queue.add(b"a", closing(BLOB))
    assert credit.total == 2
    queue.add(b"a", closing(OTHER))
    assert credit.total == 0


def test_a_peer_that_goes_is_forgotten(queue, credit):
    """What it had under way is given to the others."""
    for number in range(WINDOW):
        queue.add(b"a", fetch(number))
        queue.add(b"b", fetch(number))
    drain(queue)
    assert credit.total == 6
    queue.forget(b"a")
    assert {turn.peer for turn in drain(queue)} <= {b"b"}
    queue.forget(b"b")
    assert credit.total == 0
    assert queue.next() is None


def test_a_blob_given_up_in_silence_lapses(queue, credit, clock):
    """A cancelled round's chunks do not hold credit for ever."""
    for number in range(WINDOW):
        queue.add(b"a", fetch(number))
    drain(queue)
    clock.now = LAPSE_S - 0.1
    queue.next()
    assert credit.total == WINDOW
    clock.now = LAPSE_S
    queue.next()
    assert credit.total == 0


def test_a_stalled_peer_goes_on_after_the_lapse(clock):
    """Receipts that never come cannot block a peer that still waits for chunks."""
    credit = Credit(budget=1, window=WINDOW)
    queue = ServeQueue(credit, clock=clock)
    for number in range(3):
        queue.add(b"a", fetch(number))
    assert len(drain(queue)) == 1
    clock.now = LAPSE_S
    assert queue.next() == (b"a", fetch(1))
    assert credit.total == 1


def test_a_receipt_gives_back_what_it_says(queue, credit):
    """For a blob shorter than the window they are all that tells."""
    for number in range(3):
        queue.add(b"a", fetch(number))
    drain(queue)
    queue.add(b"a", receipt(BLOB, 1))
    assert credit.total == 2
    queue.add(b"a", receipt(BLOB, 2))
    assert credit.total == 0
    queue.add(b"a", receipt(BLOB, 2))
    queue.add(b"b", receipt(BLOB, 2))
    assert credit.total == 0


def test_a_turn_that_could_not_be_used_comes_again(queue, credit):
    """A full queue at the socket costs nothing."""
    queue.add(b"a", fetch(0))
    queue.add(b"a", fetch(1))
    turn = queue.next()
    queue.unsent(turn)
    assert credit.total == 0
    assert [turn.fetch for turn in drain(queue)] == [fetch(0), fetch(1)]
    gone = queue.next() or turn
    queue.forget(b"a")
    queue.unsent(gone)
    assert credit.total == 0
    assert queue.next() is None


def test_a_flood_of_requests_is_bounded(queue, credit):
    """Beyond two windows they are dropped; an honest receiver has one."""
    for number in range(1000):
        queue.add(b"a", fetch(number))
    assert len(drain(queue)) <= 2 * WINDOW


class Fleet:
    """Receivers that pull a blob each through one queue, over connections of any speed."""

    def __init__(self, rng, sizes, budget=5, window=3, chunk=8):
        self.clock = Clock()
        self.credit = Credit(budget=budget, window=window)
        self.queue = ServeQueue(self.credit, clock=self.clock)
        self.sizes = dict(enumerate(sizes))
        self.data = {peer: rng.randbytes(size * chunk) for peer, size in self.sizes.items()}
        self.wires = {peer: deque() for peer in self.data}
        self.served = Counter()
        self.downloads = {
            peer: _InMemory(hashlib.sha256(one).hexdigest(), bytearray(len(one)), window, chunk)
            for peer, one in self.data.items()
        }

    @property
    def under_way(self):
        return sum(map(len, self.wires.values()))

    @property
    def done(self):
        return all(download.done for download in self.downloads.values())

    def ask(self, peer):
        for request in self.downloads[peer].requests():
            self.queue.add(peer, request)

    def serve(self):
        while (turn := self.queue.next()) is not None:
            self.wires[turn.peer].append(turn.fetch)
            self.served[turn.peer] += 1

    def arrive(self, rng):
        peer = rng.choice([peer for peer, wire in self.wires.items() if wire])
        got = self.wires[peer].popleft()
        payload = self.data[peer][got.offset : got.offset + got.length]
        self.downloads[peer].on_chunk(got.offset, payload)
        self.ask(peer)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), sizes=st.lists(st.integers(0, 40), min_size=1, max_size=9))
def test_many_downloads_all_end_and_the_account_is_exact(seed, sizes):
    """What the credit says is under way is under way, within the bound, to the last chunk."""
    rng = random.Random(seed)
    fleet = Fleet(rng, sizes)
    for peer in fleet.downloads:
        fleet.ask(peer)
    fleet.serve()
    while fleet.under_way:
        assert fleet.under_way == fleet.credit.total <= 5 + len(sizes)
        fleet.arrive(rng)
        fleet.serve()
    assert fleet.done
    assert {peer: fleet.served[peer] for peer in fleet.sizes} == fleet.sizes
    assert fleet.credit.total == 0


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), sizes=st.lists(st.integers(0, 20), min_size=1, max_size=6))
def test_receivers_that_ask_again_or_start_over_all_get_their_blob(seed, sizes):
    """The queue neither blocks nor leaks; each asking anew costs one window more, at most."""
    rng = random.Random(seed)
    fleet = Fleet(rng, sizes)
    anew = dict.fromkeys(fleet.downloads, 0)
    for step in range(5000):
        fleet.serve()
        assert fleet.credit.total <= 5 + len(sizes)
        anew = {peer: n if fleet.wires[peer] else 0 for peer, n in anew.items()}
        assert fleet.under_way <= fleet.credit.total + 3 * (sum(anew.values()) + len(sizes))
        peer = rng.randrange(len(sizes))
        if step < 200 and rng.random() < 0.1:
            fleet.downloads[peer].restart()
            anew[peer] += 1
        elif step < 200 and rng.random() < 0.05:
            fleet.queue.forget(peer)
            fleet.wires[peer].clear()
            fleet.downloads[peer].restart()
        fleet.ask(peer)
        if fleet.under_way:
            fleet.arrive(rng)
        elif fleet.done:
            break
        else:
            fleet.clock.now += LAPSE_S
    assert fleet.done
    fleet.clock.now += LAPSE_S
    assert fleet.queue.next() is None
    assert fleet.credit.total == 0


class _InMemory(Download):
    """A download that writes to a bytearray."""

    def __init__(self, digest, sink, window, chunk):
        self.bytes = sink
        super().__init__(digest, len(sink), -1, window=window, chunk=chunk)

    def _write(self, payload, offset):
        self.bytes[offset : offset + len(payload)] = payload

    def _take_in(self, length):
        self._hash.update(self.bytes[self._hashed : self._hashed + length])
        self._hashed += length
