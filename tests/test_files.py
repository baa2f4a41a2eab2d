"""Files that survive whatever happens, and locks that end with their process."""

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flctl import files
from flctl.errors import StateError, UsageError

HOLD = """
import sys, time
from pathlib import Path
from flctl.files import Lock
lock = Lock(Path(sys.argv[1]), "busy")
print("held", flush=True)
time.sleep(60)
"""


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def identity(path: Path) -> tuple[int, int, int]:
    """What a write would change; the time of the last access changes by reading alone."""
    here = path.lstat()
    return here.st_ino, here.st_mode, here.st_mtime_ns


def test_a_file_is_replaced_as_a_whole(tmp_path):
    """Nothing else is left in the folder, and only its owner reads it."""
    path = tmp_path / "keys"
    for content in (b"one", b"two and more"):
        files.replace(path, content)
        assert path.read_bytes() == content
    assert mode(path) == 0o600 and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("fault", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_while_writing_keeps_the_old_content(tmp_path, fault):
    """No half file, no temporary file."""
    path = tmp_path / "model"
    path.write_bytes(b"old")
    with pytest.raises(fault), files.new_file(path) as file:
        file.write(b"new" * 100_000)
        raise fault
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_the_old_content_stands_until_the_block_ends(tmp_path):
    """Readers never see a file that is being written."""
    path = tmp_path / "model"
    path.write_bytes(b"old")
    with files.new_file(path, mode=0o640) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new" and mode(path) == 0o640


@pytest.mark.parametrize("kind", ["pipe", "link to it", "loop", "folder"])
def test_only_a_file_is_replaced(tmp_path, kind):
    """A device, a pipe or a folder stays what it is."""
    path, pipe = tmp_path / "model", tmp_path / "pipe"
    os.mkfifo(pipe)
    match kind:
        case "pipe":
            path = pipe
        case "folder":
            path.mkdir()
        case _:
            path.symlink_to(pipe if kind == "link to it" else path)
    before = identity(path)
    with pytest.raises(UsageError, match=f"{path}: not a regular file"):
        files.replace(path, b"new")
    assert identity(path) == before and stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.parametrize("old", [b"old", None])
def test_a_link_stays_and_its_file_is_replaced(tmp_path, old):
    """Also when that file is not there yet."""
    link, there = tmp_path / "link", tmp_path / "folder" / "model"
    there.parent.mkdir()
    link.symlink_to(there)
    if old is not None:
        there.write_bytes(old)
    files.replace(link, b"new")
    assert link.is_symlink() and there.read_bytes() == b"new"
    assert list(there.parent.iterdir()) == [there]


def test_a_file_is_on_the_disk_before_it_takes_its_place(tmp_path, monkeypatch):
    """Synced, renamed, and then the folder is synced: in this order."""
    steps = []
    real_fsync, real_replace = os.fsync, Path.replace

    def fsync(fd):
        steps.append("folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file")
        real_fsync(fd)

    def rename(self, target):
        steps.append("rename")
        return real_replace(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", rename)
    files.replace(tmp_path / "file", b"x")
    assert steps == ["file", "rename", "folder"]


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.ENOSPC, "the disk is full; make room and try again"),
        (errno.EDQUOT, "the disk is full; make room and try again"),
        (errno.EROFS, "the file system is read-only; name another folder with --state"),
        (errno.EACCES, "this user may not write there; name another folder with --state"),
        (errno.EPERM, "this user may not write there; name another folder with --state"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_a_disk_that_fails_is_explained(tmp_path, monkeypatch, number, says):
    """Which file, what was to be done with it, and what to do now; nothing is left behind."""

    def fail(fd):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    path = tmp_path / "allowed.json"
    with pytest.raises(StateError) as caught:
        files.replace(path, b"{}")
    assert str(caught.value) == f"{path}: cannot write: {says}"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_really_full_disk_is_explained():
    """The kernel's own ENOSPC."""
    path = Path("/dev/full")
    with (
        pytest.raises(StateError, match="/dev/full: cannot write the model: the disk is full"),
        files.explained(path, "write the model"),
        path.open("wb", buffering=0) as file,
    ):
        file.write(b"x")


def test_a_missing_folder_is_explained(tmp_path):
    """Also when not even a temporary file can be made."""
    with pytest.raises(StateError, match="cannot write: No such file or directory"):
        files.replace(tmp_path / "absent" / "file", b"x")


def test_a_folder_and_its_parents_are_for_their_owner_only(tmp_path):
    """Keys lie beneath; folders that are there already are left as they are."""
    tmp_path.chmod(0o755)
    made = files.make_folder(tmp_path / "a" / "b" / "c")
    assert made == tmp_path / "a" / "b" / "c" == files.make_folder(made)
    assert [mode(p) for p in (tmp_path / "a", tmp_path / "a/b", made)] == [0o700] * 3
    assert mode(tmp_path) == 0o755


def test_a_file_where_a_folder_should_be_is_explained(tmp_path):
    """At the end of the path or in the middle of it."""
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match="is not a folder; name another one with --state"):
        files.make_folder(tmp_path / "file")
    with pytest.raises(StateError, match="cannot make the folder"):
        files.make_folder(tmp_path / "file" / "state")


# Locks ---------------------------------------------------------------------------------


def held_elsewhere(path: Path) -> subprocess.Popen:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, path], stdout=subprocess.PIPE)
    assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
    return holder


def test_a_lock_that_cannot_be_written_is_not_kept(tmp_path, monkeypatch):
    """It says why, and can be taken once there is room."""
    path = tmp_path / "lock"

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "pwrite", full)
        with pytest.raises(StateError, match="lock: cannot take the lock: the disk is full"):
            files.Lock(path, "busy")
    files.Lock(path, "busy").release()


def test_a_lock_is_exclusive_until_its_process_is_killed(tmp_path):
    """kill -9 releases it, and the error names the process that holds it."""
    path = tmp_path / "lock"
    assert not files.is_locked(path)
    holder = held_elsewhere(path)
    try:
        assert files.is_locked(path)
        with pytest.raises(StateError, match=rf"^run x is driven \(process {holder.pid}\)$"):
            files.Lock(path, "run x is driven")
        assert files.is_locked(path), "asking did not disturb it"
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        assert holder.stdout is not None
        holder.stdout.close()
    assert not files.is_locked(path)
    lock = files.Lock(path, "busy")
    assert path.read_text() == f"{os.getpid()}\n"
    lock.release()


def test_a_lock_is_exclusive_within_a_process_too(tmp_path):
    """Two coordinators embedded in one program."""
    path = tmp_path / "lock"
    lock = files.Lock(path, "busy")
    assert files.is_locked(path)
    with pytest.raises(StateError, match="busy"):
        files.Lock(path, "busy")
    lock.release()
    assert not files.is_locked(path)
    files.Lock(path, "busy").release()


def test_looking_at_a_lock_does_not_keep_others_from_taking_it(tmp_path):
    """`flctl runs list` every moment, while runs begin and end."""
    path = tmp_path / "lock"
    files.Lock(path, "busy").release()
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            files.is_locked(path)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        for _ in range(200):
            files.Lock(path, "busy").release()
    finally:
        over.set()
        watcher.join()


def test_below_a_link_to_itself_nothing_is_locked(tmp_path):
    """It was taken for a process that does not answer."""
    (tmp_path / "loop").symlink_to("loop")
    assert not files.is_locked(tmp_path / "loop" / "lock")


def test_a_lock_in_a_folder_that_is_not_there_is_explained(tmp_path):
    """A StateError like every other trouble with the state folder."""
    with pytest.raises(StateError, match="cannot take the lock"):
        files.Lock(tmp_path / "absent" / "lock", "busy")
    assert not files.is_locked(tmp_path / "absent" / "lock")


KILLED = """
import os, signal, sys
from pathlib import Path
from flctl import files
with files.new_file(Path(sys.argv[1])) as file:
    file.write(b"half of")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_kill_9_leaves_is_taken_over_by_the_next_writer(tmp_path):
    """However often: one temporary file at most, and none after a write that ends well."""
    path = tmp_path / "model"
    for _ in range(3):
        subprocess.run([sys.executable, "-c", KILLED, path], check=False)
        assert len(list(tmp_path.iterdir())) == 1
    files.replace(path, b"x")
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == b"x"


def test_of_two_writers_at_the_same_time_each_writes_the_whole(tmp_path):
    """The second waits for the first, in another process or thread."""
    path = tmp_path / "model"
    with ThreadPoolExecutor() as pool:
        contents = [bytes([n]) * 100_000 for n in range(8)]
        list(pool.map(lambda data: files.replace(path, data), contents))
    assert path.read_bytes() in contents
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("plant", ["a second name", "another's", "a pipe"])
def test_a_temporary_file_that_was_planted_is_neither_used_nor_emptied(tmp_path, plant):
    """Beside a secret key: whoever planted it would read what is written, or empty a file."""
    path, planted = tmp_path / "me.key", tmp_path / ".me.key.tmp"
    victim = tmp_path / "victim"
    victim.write_text("precious")
    if plant == "another's" and os.geteuid() != 0:
        return  # only root can make one
    if plant == "a second name":
        planted.hardlink_to(victim)
    elif plant == "a pipe":
        os.mkfifo(planted)
    else:
        planted.touch()
        os.chown(planted, 7700, -1)
    kept = None if plant == "a pipe" else planted.open("rb")
    files.replace(path, b"secret")
    assert path.read_bytes() == b"secret" and path.stat().st_nlink == 1
    assert victim.read_text() == "precious" and not planted.exists()
    assert path.stat().st_uid == os.geteuid()
    if kept is not None:
        assert b"secret" not in kept.read()
        kept.close()


def test_a_file_without_an_end_is_not_read_to_its_end():
    """Whatever a person has named: a key, a token, settings."""
    with pytest.raises(OSError, match="more than 1 MB"):
        files.read_small(Path("/dev/zero"))


def test_a_lock_does_not_write_through_a_link(tmp_path):
    victim, link = tmp_path / "victim", tmp_path / "coordinator.lock"
    victim.write_text("precious")
    link.symlink_to(victim)
    with pytest.raises(StateError, match="cannot take the lock"):
        files.Lock(link, "busy")
    assert victim.read_text() == "precious"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("106", "106.hea"), ("beats", "beats.csv"), ("mitbd", "mitdb"), ("other", None)],
)
def test_a_path_that_is_not_there_comes_with_what_may_be_meant(tmp_path, typed, meant):
    """The record of that name, another file of that stem, a name that is alike; or nothing."""
    for name in ("106.atr", "106.dat", "106.hea", "beats.csv", "mitdb"):
        (tmp_path / name).touch()
    with pytest.raises(UsageError) as refused:
        files.expect_path(tmp_path / typed, "--data X")
    hint = f"; did you mean {tmp_path / meant}?" if meant else ""
    assert str(refused.value) == f"--data X: no such file or folder{hint}"


@pytest.mark.parametrize(("target", "says"), [("link", "to itself"), ("gone", "to nothing: gone")])
def test_a_link_without_a_file_is_called_that(tmp_path, target, says):
    """It was 'no such file', with the same name as what may be meant."""
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(UsageError) as refused:
        files.expect_path(tmp_path / "link", "--data link")
    assert str(refused.value) == f"--data link: a link that leads {says}"
