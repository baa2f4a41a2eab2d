import gzip
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from flctl.errors import DataError
from flctl.learning.ecg import Ecg
from flctl.learning.task import initial_model


def beats(n: int = 20) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {
        "X": rng.integers(-300, 500, (n, 187)).astype(np.int16),
        "y": (np.arange(n) % 5).astype(np.uint8),
    }


def write(path: Path, **changes: object) -> Path:
    arrays = {**beats(), **changes}
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def test_the_data_that_ship_are_split_by_time_and_patient():
    """16 patients to train on, later beats of the same ones, and two never seen."""
    task = Ecg()
    train, parts = task.train_data(None), task.test_parts(None)
    assert len(train) == 4907
    assert {name: len(part) for name, part in parts.items()} == {"later": 2129, "unseen": 695}
    assert next(iter(parts)) == "later"
    assert len(set(train.group)) == 16
    assert set(parts["later"].group) == set(train.group)
    assert set(parts["unseen"].group) == {"116", "205"}
    assert len(task.held_out(None)) == 2129


def test_the_model_gives_a_logit_for_each_class():
    """From beats as they are stored; about 20,000 parameters."""
    task = Ecg()
    model = initial_model(task, seed=1)
    x = torch.zeros(3, 187, dtype=torch.int16)
    assert model(task.inputs(x, training=False)).shape == (3, 5)
    assert model(task.inputs(x, training=True)).shape == (3, 5)
    assert 10_000 < sum(p.numel() for p in model.parameters()) < 25_000


def test_without_splits_the_latest_fifth_of_each_record_is_held_out(tmp_path):
    """In the order of the file; what is held out is not trained on."""
    record = np.array(["a"] * 10 + ["b"] * 5 + ["c"] * 4 + ["d"])
    path = write(tmp_path / "own.npz", record=record)
    task = Ecg()
    x = torch.from_numpy(beats()["X"])
    assert torch.equal(task.held_out(path).x[:, :187], x[[8, 9, 14]])
    assert len(task.train_data(path)) == 17
    assert {name: len(part) for name, part in task.test_parts(path).items()} == {"test": 20}


def test_a_file_that_names_no_record_is_one_record(tmp_path):
    """It bears the name of the file."""
    assert set(Ecg().train_data(write(tmp_path / "p7.npz")).group) == {"p7"}


def test_a_folder_is_all_its_files_in_order_of_their_names(tmp_path):
    """Other files are left alone; floats and integers may be mixed."""
    write(tmp_path / "b.npz", split=np.zeros(20, dtype=np.int64))
    write(tmp_path / "a.npz", X=np.ones((20, 187)), split=np.repeat([0, 1], 10))
    (tmp_path / "notes.txt").write_text("not data")
    task = Ecg()
    assert task.train_data(tmp_path).group.tolist() == ["a"] * 10 + ["b"] * 20
    assert {name: len(part) for name, part in task.test_parts(tmp_path).items()} == {"later": 10}


def test_a_split_that_is_only_for_training_holds_nothing_out(tmp_path):
    """What a file says about its split is believed."""
    path = write(tmp_path / "own.npz", split=np.zeros(20, dtype=np.uint8))
    assert Ecg().held_out(path) is None
    assert len(Ecg().train_data(path)) == 20


X, Y = beats()["X"], beats()["y"]
NAN = X.astype(np.float64)
NAN[7, 3] = np.nan


@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64"])
def test_whole_numbers_of_any_type_are_the_same_beats(tmp_path, dtype):
    path = write(tmp_path / "beats.npz", X=(X % 100).astype(dtype))
    x = Ecg().train_data(path).x
    assert x.dtype == torch.int16
    assert set(x.flatten().tolist()) <= set((X % 100).flatten().tolist())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"X": None}, "there is no array 'X' in it"),
        ({"y": None}, "there is no array 'y' in it"),
        ({"X": X[:, :100]}, r"X has shape \[20, 100\], beats have \[n, 187\]"),
        ({"X": X[0]}, r"X has shape \[187\]"),
        ({"X": X.astype(np.complex64)}, "X is of type complex64"),
        ({"X": X.astype(np.int32) + 40_000}, "X has whole numbers beyond 32767"),
        ({"X": X.astype(float) * 1e300}, "example 0 has numbers too large for float32"),
        ({"X": X.astype(object)}, "Object arrays cannot be loaded"),
        ({"X": NAN}, "example 7 holds NaN"),
        ({"X": X[:19]}, r"19 beats in X but y has shape \[20\]"),
        ({"X": X[:0], "y": Y[:0]}, "no examples"),
        ({"y": np.where(np.arange(20) == 3, 5, Y)}, "example 3 has label 5, not in 0 to 4"),
        ({"y": Y.astype(np.int8) - 1}, "example 0 has label -1"),
        ({"y": Y.astype(float)}, "y is of type float64"),
        ({"record": np.zeros(3, dtype=np.int64)}, r"record has shape \[3\], y \[20\]"),
        ({"record": np.zeros(20)}, "record is of type float64"),
        ({"split": np.full(20, 3)}, "split holds something else than 0, 1 and 2"),
        ({"split": np.full(20, 2)}, "no beats for training"),
    ],
)
def test_a_bad_file_is_an_error_of_one_line(tmp_path, changes, message):
    """It names the file, and the example where there is one."""
    path = write(tmp_path / "bad.npz", **changes)
    with pytest.raises(DataError, match=message) as caught:
        Ecg().train_data(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_archives_are_errors_of_one_line(tmp_path):
    """Missing, of another type, cut off, empty, a folder without data."""
    whole = write(tmp_path / "whole.npz").read_bytes()
    for name, content, message in (
        ("text.npz", b"hello", "not an .npz file"),
        ("empty.npz", b"", "not an .npz file"),
        ("cut.npz", whole[:5000], "not an .npz file, or a damaged one"),
        ("flipped.npz", whole[:2000] + bytes([whole[2000] ^ 1]) + whole[2001:], "damaged one"),
        ("packed.npz.gz", gzip.compress(whole), "heartbeats are not read from such a file"),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(DataError, match=message) as caught:
            Ecg().train_data(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="no such file or folder"):
        Ecg().train_data(tmp_path / "absent.npz")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match="no heartbeat files in this folder"):
        Ecg().held_out(tmp_path / "folder")


def test_a_header_that_promises_too_much_is_refused(tmp_path):
    """An array of a thousand terabytes is not allocated."""
    path = tmp_path / "bomb.npz"
    header = b"{'descr': '<i2', 'fortran_order': False, 'shape': (3000000000000, 187), }"
    header += b" " * (117 - len(header)) + b"\n"
    npy = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"\0" * 100
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("X.npy", npy)
        archive.writestr("y.npy", npy)
    with pytest.raises(DataError, match="cannot be read"):
        Ecg().train_data(path)
