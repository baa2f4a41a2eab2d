"""Data that change while they are used."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from flctl.errors import DataError, OtherData
from flctl.learning.examples import Examples
from flctl.learning.reading import SETTLE_S, TRIES, Reading
from flctl.learning.stamps import stamp_of


class Folder:
    """A folder of numbers, one a file; who reads it notes how often."""

    def __init__(self, path: Path) -> None:
        self.path, self.reads, self.now, self.waited = path, 0, 0.0, 0
        self.reading = Reading(path, self.read, lambda: self.now, lambda: self.wall, self.wait)
        self.wall = 1e9
        self.put("a", "1")

    def put(self, name: str, text: str) -> None:
        (self.path / name).write_text(text)
        self.wall += 1  # so that no two changes have one time
        for path in (self.path / name, self.path):
            os.utime(path, (self.wall, self.wall))

    def wait(self, seconds: float) -> None:
        self.waited += 1
        self.wall += seconds

    def read(self) -> Examples:
        self.reads += 1
        texts = [file.read_text() for file in sorted(self.path.iterdir())]
        if not texts:
            raise OtherData(f"{self.path}: nothing")
        if "" in texts:
            raise DataError(f"{self.path}: half a file")
        x = torch.tensor([[float(text)] for text in texts])
        return Examples(x, torch.zeros(len(texts)), classes=1)

    def get(self) -> list[float]:
        return self.reading.get().x.flatten().tolist()


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_data_are_read_again_only_when_a_file_has_changed(folder: Folder) -> None:
    """Added, removed, written anew; otherwise a look at sizes and times is all it costs."""
    assert folder.get() == folder.get() == [1.0] and folder.reads == 1
    folder.put("b", "2")
    assert folder.get() == [1.0, 2.0]
    folder.put("b", "3")
    assert folder.get() == [1.0, 3.0]
    (folder.path / "a").unlink()
    assert folder.get() == [3.0] and folder.reads == 4


def test_half_a_file_leaves_what_was_read_before(folder: Folder) -> None:
    """As long as somebody may be writing it; what stays so is an error."""
    folder.get()
    folder.put("b", "")
    assert folder.get() == [1.0] and folder.waited == TRIES - 1
    folder.put("b", "2")
    assert folder.get() == [1.0, 2.0]
    folder.put("c", "")
    assert folder.get() == [1.0, 2.0]
    folder.now += SETTLE_S
    with pytest.raises(DataError, match="half a file"):
        folder.get()


def test_a_file_that_is_written_just_now_is_waited_for(folder: Folder) -> None:
    """With nothing from before; one that was left so long ago is not."""
    folder.put("b", "")
    folder.reading._wait = lambda _: folder.put("b", "2")
    assert folder.get() == [1.0, 2.0]
    old = Folder(folder.path)
    old.put("b", "")
    old.wall += 1000.0
    with pytest.raises(DataError):
        old.get()
    assert not old.waited


def test_what_its_owner_removes_is_used_no_more(folder: Folder) -> None:
    """Though what is left cannot be read at the moment, or there is nothing left."""
    folder.put("b", "2")
    folder.get()
    (folder.path / "b").unlink()
    folder.put("c", "")
    with pytest.raises(DataError, match="half a file"):
        folder.get()
    for file in folder.path.iterdir():
        file.unlink()
    with pytest.raises(DataError, match="nothing"):
        folder.get()


def test_the_look_at_a_file_sees_the_others_of_its_record(tmp_path: Path) -> None:
    """And a look that must be short sees at least that files came or went."""
    header, signal = tmp_path / "100.hea", tmp_path / "100.dat"
    header.touch()
    before = stamp_of(header)
    signal.touch()
    assert stamp_of(header) != before and stamp_of(header).keys() == {str(header), str(signal)}
    many = tmp_path / "many"
    many.mkdir()
    for number in range(9):
        (many / str(number)).touch()
    short = stamp_of(many, 3)
    assert len(short) == 3
    os.utime(many, (1.0, 1.0))
    assert stamp_of(many, 3) != short
    assert stamp_of(None) == stamp_of(tmp_path / "absent") == {}


def test_the_digest_of_examples_is_that_of_their_numbers() -> None:
    """Whatever files they came from, and whatever their groups are called."""
    x, y = torch.arange(6.0).reshape(3, 2), torch.zeros(3)
    one = Examples(x, y, classes=2, group=["a", "b", "c"], where="here")
    assert one.digest == Examples(x.clone(), y, classes=2, where="there").digest
    assert one.digest != one.select(np.array([0, 1])).digest
    assert one.digest != Examples(x.to(torch.float64), y, classes=2).digest
    assert one.digest != Examples(x, torch.ones(3), classes=2).digest
    assert Examples(x.to(torch.bfloat16), y, classes=2).digest
