import numpy as np
import pytest

from flctl.errors import DataError
from flctl.learning.beats_csv import read_csv
from flctl.learning.beats_npz import read_npz
from flctl.learning.ecg import Ecg
from flctl.learning.origin import ReadAs


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
        (ROW.replace(",", "|"), "1 column; a beat has 187"),
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


def changed(change):
    """Kaggle's layout, and the same after `change`; both as the file holds them."""
    rows = as_kaggle(beats(30))
    return rows, change(rows.copy())


def outlier(value):
    def change(rows):
        rows[3, 50] = value
        return rows

    return change


CHANGES = {
    "one value above": outlier(1.02),
    "one value below": outlier(-0.001),
    "one value far above": outlier(1e6),
    "means removed": lambda rows: rows - rows.mean(axis=1, keepdims=True),
    "mean of all removed": lambda rows: rows - rows.mean(),
    "standardised": lambda rows: (rows - rows.mean(axis=1, keepdims=True)) / rows.std(1)[:, None],
    "from -1 to 1": lambda rows: 2 * rows - 1,
    "thousandths": lambda rows: 1000 * rows,
    "a converter's": lambda rows: 300 * rows + 1024,
    "tiny": lambda rows: rows / 1000,
}


@pytest.mark.parametrize("kind", ["csv", "npz"])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_no_single_value_and_no_scale_decides_where_r_is(tmp_path, kind, change):
    """Kaggle's beats after what people do to them are those that they were."""
    rows, other = changed(change)
    if kind == "csv":
        np.savetxt(tmp_path / "b.csv", other, delimiter=",", fmt="%.9f")
        found = read_csv(tmp_path / "b.csv", labelled=False)
    else:
        np.savez(tmp_path / "b.npz", X=other)
        found = read_npz(tmp_path / "b.npz", labelled=False)
    usual = read_csv(write(tmp_path / "usual.csv", rows), labelled=False)
    others = np.arange(30) != 3  # where the value itself stands
    assert np.allclose(found.x[others], usual.x[others], atol=0.1)
    assert str(found.facts["R peak at sample"]).startswith("0")


@pytest.mark.parametrize("at", [31, 93])
def test_r_peaks_elsewhere_are_found_and_moved(tmp_path, at):
    """Or believed where their place is named."""
    rows = np.roll(beats(30), at - 62, axis=1)
    path = write(tmp_path / "b.csv", rows)
    found = read_csv(path, labelled=False)
    assert (found.x.argmax(axis=1) == 62).all()
    assert f"stand at sample {at}" in found.note
    named = read_csv(path, labelled=False, read_as=ReadAs(r_at=62))
    assert (named.x.argmax(axis=1) == at).all()


def test_a_baseline_of_a_converter_is_taken_away(tmp_path):
    """What is said of it stands among the facts."""
    found = read_csv(write(tmp_path / "b.csv", beats(30) + 1024), labelled=False)
    assert np.abs(np.median(found.x)) < 5
    assert "baseline taken away" in found.facts


def test_where_beats_do_not_show_their_r_peak_it_is_said(tmp_path):
    """Noise."""
    path = write(tmp_path / "b.csv", np.random.default_rng(1).normal(0, 100, (20, 187)))
    assert "sample 62 is assumed" in read_csv(path, labelled=False).note


Y = np.arange(30) % 5


def as_text(rows, delimiter=",", decimal=".", **also):
    lines = [delimiter.join(f"{v:.6f}".replace(".", decimal) for v in row) for row in rows]
    if "first" in also:
        lines = [also["first"], *lines]
    if also.get("index"):
        numbers = ["", *range(30)] if "first" in also else range(30)
        lines = [f"{number}{delimiter}{line}" for number, line in zip(numbers, lines, strict=True)]
    return "\n".join(lines)


NUMBERS = [str(i) for i in range(187)]
FORMS = {
    "numbers as names": {"first": ",".join([*NUMBERS, "187"])},
    "numbers and a name": {"first": ",".join([*NUMBERS, "label"])},
    "with numbers of the rows": {"first": ",".join([*NUMBERS, "class"]), "index": True},
    "numbers of the rows alone": {"index": True},
    "semicolons": {"delimiter": ";"},
    "semicolons and decimal commas": {"delimiter": ";", "decimal": ","},
    "tabs": {"delimiter": "\t"},
    "blanks": {"delimiter": " "},
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_a_file_may_come_out_of_any_program(tmp_path, form):
    """Names that count up are no beat, numbers of rows no sample."""
    rows = as_kaggle(beats(30))
    usual = read_csv(write(tmp_path / "usual.csv", np.c_[rows, Y]))
    (tmp_path / "b.csv").write_text(as_text(np.c_[rows, Y], **form))
    found = read_csv(tmp_path / "b.csv")
    assert np.allclose(found.x, usual.x, atol=0.01)
    assert found.y.tolist() == Y.tolist()


@pytest.mark.parametrize("index", [False, True])
def test_numbers_as_names_are_no_beat_where_there_is_no_class(tmp_path, index):
    """pandas writes 0 to 186, with or without the numbers of the rows."""
    text = as_text(beats(30), first=",".join(NUMBERS), index=index)
    (tmp_path / "b.csv").write_text(text)
    found = read_csv(tmp_path / "b.csv", labelled=False)
    assert np.allclose(found.x, beats(30))
    assert found.y is None


def test_classes_may_be_letters(tmp_path):
    """With names of the columns, and the class among them anywhere."""
    classes = "NSVFQ" * 6
    rows = [["type", *NUMBERS], *([c, *row] for c, row in zip(classes, beats(30), strict=True))]
    (tmp_path / "b.csv").write_text("\n".join(",".join(map(str, row)) for row in rows))
    assert read_csv(tmp_path / "b.csv").y.tolist() == Y.tolist()


def test_a_beat_that_pandas_took_for_names_is_counted(tmp_path):
    """Two columns that are both called 0.0 became 0.0 and 0.0.1."""
    rows = as_kaggle(beats(30))
    first = ",".join(f"{v}.{i}" for i, v in enumerate(rows[0]))
    (tmp_path / "b.csv").write_text(as_text(rows[1:], first=first))
    found = read_csv(tmp_path / "b.csv", labelled=False)
    assert len(found.x) == 29
    assert list(found.origin.left_out.values()) == [1]


def test_what_is_missing_at_the_end_is_padding_and_elsewhere_an_error(tmp_path):
    """Empty fields, or NaN."""
    rows = as_kaggle(beats(30))
    usual = read_csv(write(tmp_path / "usual.csv", rows), labelled=False)
    text = as_text(rows[:, :110]).replace("\n", "," * 77 + "\n") + "," * 77
    (tmp_path / "b.csv").write_text(text)
    assert np.allclose(read_csv(tmp_path / "b.csv", labelled=False).x, usual.x, atol=0.01)
    lines = text.split("\n")
    lines[2] = lines[2].replace(",", ",,", 1).removesuffix(",")
    (tmp_path / "b.csv").write_text("\n".join(lines))
    with pytest.raises(DataError, match="example 2 holds NaN"):
        Ecg().cases(tmp_path / "b.csv")


def test_a_share_of_moved_beats_is_read_back_as_it_is(tmp_path):
    """What flctl writes says how it is laid out."""
    path = write(tmp_path / "k.csv", np.c_[as_kaggle(beats(30)), Y])
    train = Ecg().train_data(path)
    (tmp_path / "share").mkdir()
    Ecg().write(tmp_path / "share", train.select(np.arange(2)), {})
    assert np.array_equal(Ecg().train_data(tmp_path / "share").x, train.x[:2])
