"""Pulling blobs: any order, again and again, cut off anywhere."""

import hashlib
import os
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flctl.errors import MalformedMessage, StateError
from flctl.transport.credit import closing, receipt
from flctl.transport.download import Download

CHUNK = 16
EVENTS = ["arrive", "arrive", "arrive", "twice", "cut", "lose"]


def blob_of(size, seed=0):
    data = random.Random(seed).randbytes(size)
    return data, hashlib.sha256(data).hexdigest()


@pytest.fixture
def sink(tmp_path):
    fd = os.open(tmp_path / "sink", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


def content(fd):
    return os.pread(fd, 10**6, 0)


def test_a_download_asks_one_window_ahead(sink):
    """So many requests are under way as the window has, and one more for each arrival."""
    data, digest = blob_of(10 * CHUNK)
    download = Download(digest, len(data), sink, window=3, chunk=CHUNK)
    assert [fetch.offset for fetch in download.requests()] == [0, CHUNK, 2 * CHUNK]
    assert download.requests() == []
    download.on_chunk(CHUNK, data[CHUNK : 2 * CHUNK])
    assert [fetch.offset for fetch in download.requests()] == [3 * CHUNK]
    assert download.received == CHUNK


def test_the_last_chunk_is_as_long_as_it_is(sink):
    """No request reaches beyond the end."""
    _, digest = blob_of(2 * CHUNK + 3)
    download = Download(digest, 2 * CHUNK + 3, sink, chunk=CHUNK)
    assert [fetch.length for fetch in download.requests()] == [CHUNK, CHUNK, 3]


def test_an_empty_blob_is_whole_at_once(sink):
    """Nothing is asked for."""
    download = Download(hashlib.sha256().hexdigest(), 0, sink)
    assert download.done
    assert download.peek() is None
    download.finish()


def test_the_sender_is_told_once_that_all_has_arrived(sink):
    """The closing request comes after the last chunk, and again only if it could not be sent."""
    data, digest = blob_of(CHUNK)
    download = Download(digest, CHUNK, sink, chunk=CHUNK)
    assert len(download.requests()) == 1
    download.on_chunk(0, data)
    assert download.requests() == [closing(digest)]
    assert download.requests() == []
    download.unsent(closing(digest))
    assert download.requests() == [closing(digest)]


def test_a_chunk_with_no_request_in_its_place_is_acknowledged(sink):
    """So each arrival is answered by one word, and the sender's account is exact."""
    data, digest = blob_of(4 * CHUNK)
    download = Download(digest, len(data), sink, window=3, chunk=CHUNK)
    assert len(download.requests()) == 3
    download.on_chunk(0, data[:CHUNK])
    assert [fetch.offset for fetch in download.requests()] == [3 * CHUNK]
    for offset in (CHUNK, 2 * CHUNK):
        download.on_chunk(offset, data[offset : offset + CHUNK])
        download.on_chunk(offset, data[offset : offset + CHUNK])
    assert download.requests() == [receipt(digest, 2)]
    download.unsent(receipt(digest, 2))
    assert download.requests() == [receipt(digest, 2)]
    assert download.requests() == []


def test_what_could_not_be_sent_is_asked_again(sink):
    """A request given back comes again, in its place."""
    _, digest = blob_of(4 * CHUNK)
    download = Download(digest, 4 * CHUNK, sink, window=2, chunk=CHUNK)
    first, second = download.requests()
    download.unsent(first)
    assert download.requests() == [first]
    assert second.offset == CHUNK


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_order_duplicates_losses_and_cuts_give_the_same_bytes(data):
    """Whatever the network does, the sink ends up with the blob, and it is checked."""
    size = data.draw(st.integers(0, 12 * CHUNK))
    window = data.draw(st.integers(1, 5))
    content_, digest = blob_of(size, seed=size)
    fd = os.memfd_create("sink")
    try:
        download = Download(digest, size, fd, window=window, chunk=CHUNK)
        under_way, late = [], []
        for _ in range(400):
            if download.done:
                break
            under_way += [
                fetch
                for fetch in download.requests()
                if fetch.length <= CHUNK and fetch.offset < size
            ]
            assert len(under_way) <= window + len(late)
            event = data.draw(st.sampled_from(EVENTS))
            if event == "cut":
                late, under_way = [*late, *under_way][:window], []
                download.restart()
                continue
            pool = under_way or late
            if not pool:
                download.restart()
                continue
            fetch = pool.pop(data.draw(st.integers(0, len(pool) - 1)))
            if event == "lose":
                continue
            payload = content_[fetch.offset : fetch.offset + fetch.length]
            for _ in range(2 if event == "twice" else 1):
                download.on_chunk(fetch.offset, memoryview(payload))
        while not download.done:  # whatever was drawn, a network that works ends it
            download.restart()
            for fetch in download.requests():
                download.on_chunk(
                    fetch.offset, content_[fetch.offset : fetch.offset + fetch.length]
                )
        download.finish()
        assert os.pread(fd, size + 1, 0) == content_
        assert download.received == size
    finally:
        os.close(fd)


@given(st.integers(0, 10 * CHUNK + 5))
@settings(deadline=None)
def test_a_download_goes_on_where_an_earlier_one_ended(have):
    """Bytes that are there are hashed and not asked for; a torn chunk is fetched again."""
    size = 10 * CHUNK + 5
    data, digest = blob_of(size)
    fd = os.memfd_create("sink")
    try:
        os.pwrite(fd, data[:have], 0)
        download = Download(digest, size, fd, window=100, chunk=CHUNK, have=have)
        asked = download.requests()
        if download.done:
            assert asked == [closing(digest)]
        else:
            assert asked[0].offset == have - have % CHUNK
            for fetch in asked:
                download.on_chunk(fetch.offset, data[fetch.offset : fetch.offset + fetch.length])
        download.finish()
        assert content(fd) == data
    finally:
        os.close(fd)


def test_a_changed_byte_is_found(sink):
    """A blob that is not what its name says is refused, also when it came out of order."""
    data, digest = blob_of(3 * CHUNK)
    download = Download(digest, len(data), sink, chunk=CHUNK)
    download.requests()
    for offset in (2 * CHUNK, 0, CHUNK):
        payload = bytearray(data[offset : offset + CHUNK])
        payload[3] ^= offset == 2 * CHUNK
        download.on_chunk(offset, bytes(payload))
    assert download.done
    with pytest.raises(MalformedMessage, match="its content has the digest"):
        download.finish()


def test_half_a_blob_is_not_finished(sink):
    """The message says how much is there."""
    data, digest = blob_of(3 * CHUNK)
    download = Download(digest, len(data), sink, chunk=CHUNK)
    download.requests()
    download.on_chunk(2 * CHUNK, data[2 * CHUNK :])
    with pytest.raises(MalformedMessage, match="16 of 48 bytes"):
        download.finish()


@pytest.mark.parametrize(
    ("offset", "length"),
    [(-CHUNK, CHUNK), (1, CHUNK), (3 * CHUNK, CHUNK), (10 * CHUNK, CHUNK), (2**40, 1),
     (0, CHUNK - 1), (0, CHUNK + 1), (0, 0), (0, 2 * CHUNK)],
)  # fmt: skip
def test_what_was_not_asked_for_is_refused(sink, offset, length):
    """Bytes beyond the window, off the grid or of another length never reach the disk."""
    _, digest = blob_of(10 * CHUNK)
    download = Download(digest, 10 * CHUNK, sink, window=3, chunk=CHUNK)
    download.requests()
    with pytest.raises(MalformedMessage, match=digest[:12]):
        download.on_chunk(offset, bytes(length))
    assert content(sink) == b""


def test_a_stall_is_noticed_by_the_clock_that_is_passed_in(sink):
    """Nothing for so long, although something was asked for; each arrival starts it anew."""
    data, digest = blob_of(4 * CHUNK)
    download = Download(digest, len(data), sink, window=2, chunk=CHUNK)
    assert not download.stalled(100.0, 5.0)
    download.requests(100.0)
    assert not download.stalled(104.9, 5.0)
    download.on_chunk(0, data[:CHUNK], 104.9)
    assert not download.stalled(109.8, 5.0)
    assert download.stalled(109.9, 5.0)
    download.restart(109.9)
    assert not download.stalled(200.0, 5.0)
    assert [fetch.offset for fetch in download.requests(200.0)] == [CHUNK, 2 * CHUNK]
    assert not download.stalled(204.0, 5.0)


def test_without_times_a_stall_counts_from_the_first_look(sink):
    """A caller that passes no times gets the same, a look later."""
    _, digest = blob_of(4 * CHUNK)
    download = Download(digest, 4 * CHUNK, sink, chunk=CHUNK)
    download.requests()
    assert not download.stalled(50.0, 5.0)
    assert download.stalled(55.0, 5.0)


def test_a_disk_that_fails_is_one_clear_line():
    """Not a traceback: a full card is nothing unusual."""
    fd = os.open("/dev/full", os.O_RDWR)
    try:
        data, digest = blob_of(CHUNK)
        download = Download(digest, CHUNK, fd, chunk=CHUNK)
        download.requests()
        with pytest.raises(StateError, match="the disk is full; make room"):
            download.on_chunk(0, data)
    finally:
        os.close(fd)


def test_a_chunk_is_asked_for_once_when_it_comes_before_the_next_look(sink):
    """One request at a time, each answered at once: as many requests as chunks."""
    data, digest = blob_of(5 * CHUNK)
    download = Download(digest, 5 * CHUNK, sink, chunk=CHUNK)
    asked = []
    while (fetch := download.peek()) is not None:
        download.asked(fetch)
        asked.append(fetch.offset)
        download.on_chunk(fetch.offset, data[fetch.offset : fetch.offset + fetch.length])
    assert asked == [0, CHUNK, 2 * CHUNK, 3 * CHUNK, 4 * CHUNK]
    assert download.done
