"""What an agent keeps for itself by position: lost only when it is gone."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from flctl.errors import StateError
from flctl.learning.positions import Positions, files_in
from flctl.wire.parameters import dump


@pytest.fixture
def kept(tmp_path: Path) -> Positions:
    for position in (2, 4, 6, 8):
        with (tmp_path / f"{position:012d}.safetensors").open("wb") as file:
            dump(file.fileno(), {"a": ("F32", np.ones(3, np.float32))})
    return Positions(tmp_path, "read them", "they are lost")


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO, errno.EACCES, errno.ENOMEM])
@pytest.mark.parametrize("call", ["open", "read"])
def test_a_disk_that_does_not_answer_costs_nothing(kept, monkeypatch, number, call):
    """Too many open files, or a card that stutters: an error, and the file is still there."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    if call == "open":
        monkeypatch.setattr(Path, "open", fail)
    else:
        monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(StateError, match="cannot read them"):
        kept.read(8, lambda file: file.read(file.specs[0]))
    monkeypatch.undo()
    assert kept.read(8, lambda file: file.read(file.specs[0])).tolist() == [1, 1, 1]


def test_a_damaged_file_is_lost_for_good(kept, caplog):
    kept.path(8).write_bytes(b"half")
    assert kept.read(8, lambda file: file.specs) is None
    assert "position=8 they are lost" in caplog.text and not kept.path(8).exists()
    assert kept.read(9, lambda file: file.specs) is None and "No such file" in caplog.text


def test_the_last_two_stay_and_some_before_them(kept, tmp_path):
    (tmp_path / ".x.tmp").touch()
    kept.only(8, before=6, older=1)
    assert [path.name[:12] for path in files_in(tmp_path)] == [f"{n:012d}" for n in (4, 6, 8)]
    kept.only(8, before=4)
    assert [path.name[:12] for path in files_in(tmp_path)] == [f"{n:012d}" for n in (4, 8)]
    assert not (tmp_path / ".x.tmp").exists()
