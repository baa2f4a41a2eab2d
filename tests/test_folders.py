"""Folders that take their place as a whole, and what kill -9 leaves of them."""

import subprocess
import sys
from pathlib import Path

import pytest

from flctl.folders import new_folder


@pytest.mark.parametrize("before", [None, {}, {"old": b"1"}])
def test_a_folder_takes_its_place_as_a_whole(tmp_path, before):
    """Also that of another folder, of which nothing is left."""
    place = tmp_path / "shares"
    if before is not None:
        place.mkdir()
        for name, content in before.items():
            (place / name).write_bytes(content)
    with new_folder(place) as folder:
        (folder / "new").write_bytes(b"2")
    assert list(tmp_path.iterdir()) == [place]
    assert [path.name for path in place.iterdir()] == ["new"]


@pytest.mark.parametrize("fault", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("at", ["write", "rename"])
def test_a_folder_that_is_not_finished_leaves_the_old_one(tmp_path, monkeypatch, fault, at):
    """Killed while it is written, or between the two renames."""
    place = tmp_path / "shares"
    place.mkdir()
    (place / "old").write_bytes(b"1")
    real = Path.rename

    def rename(self, target):
        if at == "rename" and self.name == "new":
            raise fault
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(fault), new_folder(place) as folder:
        (folder / "new").write_bytes(b"2")
        if at == "write":
            raise fault
    assert list(tmp_path.iterdir()) == [place]
    assert (place / "old").read_bytes() == b"1"


KILLED = """
import os, signal, sys
from pathlib import Path
from flctl.folders import new_folder
real = Path.rename
def rename(self, target):
    if sys.argv[2] == "between" and self.name == "new":
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, target)
Path.rename = rename
with new_folder(Path(sys.argv[1])) as folder:
    (folder / "pi-01").write_bytes(b"half")
    if sys.argv[2] == "within":
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("when", ["within", "between"])
@pytest.mark.parametrize("next_", ["shares", "other"])
def test_what_kill_9_leaves_is_cleared_by_the_next_one_in_the_parent(tmp_path, when, next_):
    """It stayed for ever. The old folder is as it was, also between the two renames."""
    place = tmp_path / "shares"
    place.mkdir()
    (place / "old").write_bytes(b"1")
    subprocess.run([sys.executable, "-c", KILLED, place, when], check=False)
    assert place.exists() == (when == "within") and len(list(tmp_path.glob(".*.tmp"))) == 1
    with new_folder(tmp_path / next_) as folder:
        assert (place / "old").read_bytes() == b"1"
        (folder / "new").write_bytes(b"2")
    assert {each.name for each in tmp_path.iterdir()} == {"shares", next_}


@pytest.mark.parametrize("within", [(), ("new", "mine"), ("mine",)])
def test_a_folder_of_a_living_process_or_another_program_is_left_alone(tmp_path, within):
    """Two at once do not clear each other's; nor what only has such a name."""
    other = tmp_path / ".other.12345678.tmp"
    other.mkdir()
    for name in within:
        (other / name).touch()
    with new_folder(tmp_path / "one") as one:
        with new_folder(tmp_path / "two") as two:
            (two / "2").touch()
        (one / "1").touch()
    assert {each.name for each in tmp_path.iterdir()} == {"one", "two", other.name}
    assert {each.name for each in other.iterdir()} == set(within)
