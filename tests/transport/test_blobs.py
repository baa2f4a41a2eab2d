"""Blobs at rest: in memory up to a limit, then on disk, and nothing left behind."""

import os
import shutil
from types import SimpleNamespace

import pytest

from flctl.errors import StateError
from flctl.transport.blobs import RESERVE_BYTES, BlobStore, is_in_memory

DIGEST = "ab" * 32


@pytest.fixture
def store(tmp_path):
    return BlobStore(memory_limit_bytes=1000, spill_folder=tmp_path / "spill")


def filled(store, size):
    fd = store.new(size)
    os.pwrite(fd, bytes(size), 0)
    return store.adopt(fd, DIGEST, size)


def test_blobs_lie_in_memory_up_to_the_limit(store):
    """The next one goes to disk; closing one makes room in memory again."""
    first, second = filled(store, 600), filled(store, 600)
    assert (is_in_memory(first.fd), is_in_memory(second.fd)) == (True, False)
    assert (store.memory_bytes, store.written_bytes) == (600, 600)
    first.close()
    third = filled(store, 1000)
    assert is_in_memory(third.fd)
    second.close()
    third.close()
    assert (store.memory_bytes, store.written_bytes) == (0, 600)


def test_a_blob_on_disk_has_no_name(store, tmp_path):
    """However the process ends, the file goes with it."""
    blob = filled(store, 5000)
    assert list((tmp_path / "spill").iterdir()) == []
    blob.close()


def test_a_blob_that_would_fill_the_disk_is_refused(store, tmp_path, monkeypatch):
    """Before a byte of it is fetched: a coordinator chooses the size of a model."""
    free = RESERVE_BYTES + 4999
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    filled(store, 4999).close()
    with pytest.raises(StateError, match="a blob of 0 MiB does not fit: 64 MiB are free"):
        store.new(5000)


def test_a_blob_is_read_in_pieces(store):
    """Reading ends at its end, whatever else the file holds."""
    fd = store.new(10)
    os.pwrite(fd, b"0123456789trailing", 0)
    blob = store.adopt(fd, DIGEST, 10)
    assert blob.read(0, 4) == b"0123"
    assert blob.read(8, 100) == b"89"
    assert blob.read(10, 1) == blob.read(2**40, 1) == b""
    blob.close()


def test_closing_twice_does_nothing(store):
    """The descriptor may belong to somebody else by then."""
    blob = filled(store, 10)
    fd = blob.fd
    blob.close()
    again = os.open(os.devnull, os.O_RDONLY)
    assert again == fd
    blob.close()
    os.close(again)
    with pytest.raises(StateError, match=DIGEST[:12]):
        blob.read(0, 1)


def test_a_blob_from_elsewhere_is_counted_where_it_lies(store, tmp_path):
    """A worker's update: in memory or on disk, the store knows."""
    memory = store.adopt(os.memfd_create("update"), DIGEST, 300)
    assert store.memory_bytes == 300
    fd = os.open(tmp_path / "update", os.O_RDWR | os.O_CREAT)
    os.write(fd, bytes(400))
    disk = store.adopt(fd, DIGEST, 400)
    assert (store.memory_bytes, store.written_bytes) == (300, 400)
    memory.close()
    disk.close()
    assert (store.memory_bytes, store.written_bytes) == (0, 400)


@pytest.mark.parametrize("size", [600, 6000])
def test_what_does_not_become_a_blob_is_dropped(store, size):
    """A transfer that was given up takes no room."""
    fd = store.new(size)
    os.pwrite(fd, b"half", 0)
    store.drop(fd)
    assert store.memory_bytes == 0
    assert store.written_bytes == (4 if size > 1000 else 0)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_no_folder_for_what_does_not_fit_is_one_clear_line(tmp_path):
    """The message names the folder."""
    (tmp_path / "spill").write_text("a file stands in the way")
    store = BlobStore(0, tmp_path / "spill")
    with pytest.raises(StateError, match="spill: cannot store a blob") as error:
        store.new(1)
    assert "\n" not in str(error.value)
