import numpy as np
import pytest

from flctl.errors import DataError
from flctl.learning.beats_csv import read_csv
from flctl.learning.ecg import Ecg


def beats(n=10):
    """In units of 1/200 mV, with the R peak at sample 62."""
    t = np.arange(187)
    waves = ((250, 62, 3), (-40, 72, 4), (30, 95, 12))
    wave = sum(height * np.exp(-(((t - at) / width) ** 2)) for height, at, width in waves)
    return np.stack([np.round(wave - 60 + 5 * i) for i in range(n)])


def write(path, rows, header=""):
    np.savetxt(path, rows, delimiter=",", fmt="%.6g", header=header, comments="")
    return path


def as_kaggle(x):
    """From 0 to 1, from the R peak on, zeros after 110 samples."""
    rows = x[:, 62:]
    rows = (rows - rows.min(axis=1, keepdims=True)) / np.ptp(rows, axis=1, keepdims=True)
    out = np.zeros((len(x), 187))
    out[:, :110] = rows[:, :110]
    return out


@pytest.mark.parametrize("label", [False, True])
@pytest.mark.parametrize("unit", [1, 200])
def test_beats_are_read_whatever_their_unit(tmp_path, label, unit):
    """Units of 1/200 mV, or mV, which are small numbers; with a class and without."""
    y = np.arange(10) % 5
    rows = beats() / unit
    path = write(tmp_path / "b.csv", np.c_[rows, y] if label else rows)
    found = read_csv(path, labelled=label)
    assert np.allclose(found.x, beats(), atol=0.01)
    assert (found.y is None) != label
    assert not label or found.y.tolist() == y.tolist()
    assert found.note == ""


def test_names_of_columns_are_passed_over(tmp_path):
    """A first row without a number."""
    path = write(tmp_path / "b.csv", beats(), header=",".join(f"s{i}" for i in range(187)))
    assert len(read_csv(path, labelled=False).x) == 10


def test_numbers_may_stand_in_quotes(tmp_path):
    """As some programs export them."""
    path = tmp_path / "b.csv"
    path.write_text("\n".join(",".join(f'"{v:.0f}"' for v in row) for row in beats()))
    assert np.array_equal(read_csv(path, labelled=False).x, beats())


def test_a_single_column_is_one_beat(tmp_path):
    """As a sensor writes it: a number a line."""
    found = read_csv(write(tmp_path / "b.csv", beats(1).T), labelled=False)
    assert np.array_equal(found.x, beats(1))


def test_beats_that_begin_at_their_r_peak_are_moved_to_where_others_have_it(tmp_path):
    """Kaggle's: the R peak comes to sample 62, level before it and where it is padded."""
    rows = as_kaggle(beats())
    found = read_csv(write(tmp_path / "k.csv", np.c_[rows, np.zeros(10)]))
    assert (found.x.argmax(axis=1) == 62).all()
    assert np.allclose(found.x[:, 62 : 62 + 110], 200 * rows[:, :110], atol=0.01)
    assert np.allclose(np.ptp(found.x[:, :62], axis=1), 0)
    assert np.array_equal(found.x[:, 0], found.x[:, 186])
    assert "begin at their R peak" in found.note


def test_a_beat_of_zeros_among_kaggles_is_no_trouble(tmp_path):
    """It stays what it is."""
    rows = as_kaggle(beats())
    rows[3] = 0
    assert not read_csv(write(tmp_path / "k.csv", rows), labelled=False).x[3].any()


def test_what_is_held_out_is_of_all_classes(tmp_path):
    """Kaggle's rows are sorted by class: the last fifth of them would be of one."""
    y = np.repeat(np.arange(5), 20)
    path = write(tmp_path / "k.csv", np.c_[beats(100), y])
    task = Ecg()
    assert len(task.held_out(path)) == 20
    assert (task.held_out(path).histogram() >= 3).all()
    assert (task.train_data(path).histogram() + task.held_out(path).histogram() == 20).all()


ROW = ",".join(["1"] * 187)
NAMES = ",".join(["sample"] * 188)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no examples"),
        (ROW, "187 columns; the one for the class of each beat is missing"),
        (f"{ROW},1\n1,2,3", "number of columns changed from 188 to 3 at row 2"),
        ("1,2\n3,4", "2 columns; a beat has 187, and one more for its class"),
        ("a,b\nhello,world", "not a CSV file of numbers: could not convert string 'hello'"),
        (f"{ROW},0\n{ROW},x", "could not convert string 'x' to float32 at row 2, column 188"),
        (ROW.replace(",", ";"), "the columns are not separated by commas"),
        (f"{ROW},2.5", "row 1 has the class 2.5"),
        (f"{ROW},nan", "row 1 has the class nan"),
        (f"{NAMES}\n{ROW},0\n{ROW},2.5", "row 3 has the class 2.5"),
        (f"{NAMES}\n{ROW},0\n{ROW},x", "to float32 at row 3, column 188"),
        (f"{ROW},9", "example 0 has label 9, not in 0 to 4"),
        (f"{ROW},0\n{ROW.replace('1', 'nan')},0", "example 1 holds NaN"),
        (b"\xff\xfe\x00", "it is not text"),
    ],
)
def test_a_bad_file_is_an_error_of_one_line(tmp_path, content, message):
    """It names the file."""
    path = tmp_path / "bad.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message) as caught:
        Ecg().train_data(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_kaggles_other_data_set_is_refused(tmp_path):
    """Its labels, 0 and 1, mean something else."""
    path = write(tmp_path / "ptbdb_abnormal.csv", np.c_[beats(), np.ones(10)])
    with pytest.raises(DataError, match="leave them out"):
        read_csv(path)
