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
        (f"{ROW},1\n1,2,3", "1 of 2 rows cannot be read: line 2 has 3 columns, not 188"),
        ("1,2\n3,4", "2 columns; a beat has 187, and one more for its class"),
        ("a,b\nhello,world", "line 2 has 'hello' in column 1, which is no number"),
        (f"{ROW},0\n{ROW},x", "line 2 has 'x' in column 188, which is no number"),
        (ROW.replace(",", ":"), "1 column; a beat has 187"),
        (f"{ROW},2.5", "line 1 has the class 2.5"),
        (f"{ROW},nan", "line 1 has the class nan"),
        (f"{NAMES}\n{ROW},0\n{ROW},2.5", "line 3 has the class 2.5"),
        (f"{NAMES}\n{ROW},0\n{ROW},x", "line 3 has 'x' in column 188"),
        (f"{ROW},9", "line 1 has the class 9"),
        (f"{ROW},0\n{ROW.replace('1', 'nan')},0", "line 2 lacks numbers"),
        (b"\xff\xfe\x00", "is not UTF-8"),
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


def test_what_is_missing_at_the_end_is_padding_and_elsewhere_leaves_the_row_out(tmp_path):
    """Empty fields, or NaN."""
    rows = as_kaggle(beats(30))
    usual = read_csv(write(tmp_path / "usual.csv", rows), labelled=False)
    text = as_text(rows[:, :110]).replace("\n", "," * 77 + "\n") + "," * 77
    (tmp_path / "b.csv").write_text(text)
    assert np.allclose(read_csv(tmp_path / "b.csv", labelled=False).x, usual.x, atol=0.01)
    lines = text.split("\n")
    lines[2] = lines[2].replace(",", ",,", 1).removesuffix(",")
    (tmp_path / "b.csv").write_text("\n".join(lines))
    cases = Ecg().cases(tmp_path / "b.csv")
    assert cases.line.tolist() == [1, 2, *range(4, 31)]


def test_rows_that_cannot_be_read_are_left_out_named_and_counted(tmp_path):
    """One in a block that is read at once costs no other; blank lines and comments have a line."""
    text = lines_of(np.c_[beats(30), Y], ",".join([*S, "class"])).split("\n")
    text[3], text[7], text[11] = "1,2", text[7].replace("40", "4o", 1), text[11][:-1] + "7"
    (tmp_path / "b.csv").write_text("\n".join(["# of a sensor", *text[:9], "", *text[9:]]))
    with pytest.raises(DataError, match=r"c.csv: 3 of 29 rows cannot be read: .* correct or rem"):
        (tmp_path / "c.csv").write_text("\n".join(text[:30]))
        read_csv(tmp_path / "c.csv")
    found = read_csv(tmp_path / "b.csv")
    assert found.line.tolist() == [at for at in range(3, 34) if at not in (5, 9, 11, 14)]
    assert found.y.tolist() == [y for at, y in enumerate(Y) if at not in (2, 6, 10)]
    ((why, count),) = found.origin.left_out.items()
    assert count == 3 and "rows of b.csv that cannot be read: line 5 has 2 columns, not 188" in why
    assert "line 9 has '" in why and "line 14 has the class" in why


def test_a_share_of_moved_beats_is_read_back_as_it_is(tmp_path):
    """What flctl writes says how it is laid out."""
    path = write(tmp_path / "k.csv", np.c_[as_kaggle(beats(30)), Y])
    train = Ecg().train_data(path)
    (tmp_path / "share").mkdir()
    Ecg().write(tmp_path / "share", train.select(np.arange(2)), {})
    assert np.array_equal(Ecg().train_data(tmp_path / "share").x, train.x[:2])


def lines_of(rows, first=None):
    lines = [",".join(f"{v:g}" for v in row) for row in rows]
    return "\n".join([first, *lines] if first else lines)


S = [f"s{i}" for i in range(187)]
OTHERWISE = sorted(range(187), key=str)
"""As a program sorts names that begin with a number."""
NAMED = {
    "class first": ("beat_type", S, range(187)),
    "class first, in another spelling": ("Beat Class", S, range(187)),
    "another order": ("class", [str(i) for i in OTHERWISE], OTHERWISE),
    "backwards": ("class", S[::-1], range(186, -1, -1)),
    "seconds": ("class", [f"t={i / 125:.3f}" for i in OTHERWISE], OTHERWISE),
}


@pytest.mark.parametrize(("name", "names", "order"), NAMED.values(), ids=NAMED.keys())
def test_names_decide_on_class_and_order(tmp_path, name, names, order):
    """A column that is named as the class, wherever it is; numbers in names sort the samples."""
    rows = np.c_[Y, beats(30)[:, list(order)]]
    (tmp_path / "b.csv").write_text(lines_of(rows, ",".join([name, *names])))
    found = read_csv(tmp_path / "b.csv")
    assert np.array_equal(found.x, beats(30))
    assert found.y.tolist() == Y.tolist()


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("name", ["patient", "rr_prev"])
def test_a_column_of_another_name_is_not_the_class(tmp_path, first, name):
    """It is passed over, and that is said; who needs a class learns what to do."""
    rows = np.c_[Y % 3, beats(30)] if first else np.c_[beats(30), Y % 3]
    path = tmp_path / "b.csv"
    path.write_text(lines_of(rows, ",".join([name, *S] if first else [*S, name])))
    found = read_csv(path, labelled=False)
    assert np.array_equal(found.x, beats(30))
    assert found.y is None
    assert found.facts["columns passed over"] == name
    with pytest.raises(DataError, match=f"is missing, unless it is {name}: name it 'class'"):
        read_csv(path)
    path.write_text(
        lines_of(np.c_[rows, Y], ",".join([name, *S, "y"] if first else [*S, name, "y"]))
    )
    assert np.array_equal(read_csv(path).x, beats(30))


ORDERS = {
    "shuffled": Y[::-1],
    "beginning like numbers of rows": Y,
    "of one class": Y * 0,
    "of class S": Y * 0 + 1,
}


@pytest.mark.parametrize("kaggle", [False, True])
@pytest.mark.parametrize("classes", ORDERS.values(), ids=ORDERS.keys())
def test_without_names_a_class_that_stands_first_is_not_misread(tmp_path, kaggle, classes):
    """Which column it is cannot be told; that is one line."""
    rows = np.c_[classes, as_kaggle(beats(30)) if kaggle else beats(30)]
    (tmp_path / "b.csv").write_text(lines_of(rows))
    with pytest.raises(
        DataError, match=r"may be the first column or the last one|has the class -60"
    ):
        read_csv(tmp_path / "b.csv", labelled=False)


def test_names_in_an_unusual_order_are_no_beat(tmp_path):
    """Numbers without a class."""
    rows = beats(30)[:, OTHERWISE]
    (tmp_path / "b.csv").write_text(lines_of(rows, ",".join(map(str, OTHERWISE))))
    assert np.array_equal(read_csv(tmp_path / "b.csv", labelled=False).x, beats(30))


def test_names_between_beats_are_passed_over_or_refused(tmp_path):
    """Files written one after another."""
    part = lines_of(beats(30), ",".join(NUMBERS)) + "\n"
    (tmp_path / "b.csv").write_text(part * 2)
    assert len(read_csv(tmp_path / "b.csv", labelled=False).x) == 60
    (tmp_path / "b.csv").write_text(lines_of(beats(30)) + "\n" + part)
    with pytest.raises(DataError, match="names of columns, in numbers, among the beats"):
        read_csv(tmp_path / "b.csv", labelled=False)


def test_a_row_with_a_gap_does_not_change_others(tmp_path):
    """Whatever they end with."""
    rows = beats(30)
    rows[:, -3:] = rows[:, -3:-2]
    rows[2:, :100] += 50
    text = lines_of(rows).split("\n")
    text[1] = ",".join(text[1].split(",")[:150]) + "," * 37
    (tmp_path / "b.csv").write_text("\n".join(text))
    found = read_csv(tmp_path / "b.csv", labelled=False).x
    assert np.array_equal(np.delete(found, 1, 0), np.delete(rows, 1, 0))


def test_a_missing_number_at_the_start_is_no_comment(tmp_path):
    """Excel's #N/A."""
    text = lines_of(beats(30)).split("\n")
    text[3] = "#N/A," + text[3].split(",", 1)[1]
    (tmp_path / "b.csv").write_text("\n".join(text))
    assert Ecg().cases(tmp_path / "b.csv").line.tolist() == [1, 2, 3, *range(5, 31)]


OFFSETS = {
    "10 bits": lambda x: np.round(512 + x),
    "10 bits, small": lambda x: np.round(512 + 0.6 * x),
    "12 bits": lambda x: np.round(2048 + 1.6 * x),
    "mV and a direct voltage": lambda x: x / 200 + 4,
}


@pytest.mark.parametrize("offset", OFFSETS.values(), ids=OFFSETS.keys())
def test_a_baseline_is_taken_away_however_near_to_the_beats(tmp_path, offset):
    """Of a converter as of an amplifier."""
    found = read_csv(write(tmp_path / "b.csv", offset(beats(30))), labelled=False)
    assert abs(np.median(found.x)) < 5
    assert "baseline taken away" in found.facts


@pytest.mark.parametrize("kind", [np.int16, np.int32, np.uint16, np.float32])
def test_a_baseline_of_whole_numbers_in_an_archive_is_taken_away(tmp_path, kind):
    """As docs/explanation/ecg.md says of tables in .npz files."""
    np.savez(tmp_path / "b.npz", X=(beats(30) + 1024).astype(kind))
    found = read_npz(tmp_path / "b.npz", labelled=False)
    assert abs(np.median(found.x)) < 5
    assert "baseline taken away" in found.facts


def test_an_archive_may_say_where_its_r_peaks_are(tmp_path):
    """The unit is found out all the same."""
    rows = np.roll(beats(30), 28, axis=1) / 200
    np.savez(tmp_path / "b.npz", X=rows, r_at=90)
    found = read_npz(tmp_path / "b.npz", labelled=False)
    assert (found.x.argmax(axis=1) == 62).all()
    assert np.allclose(found.x[:, 20:130], beats(30)[:, 20:130], atol=0.01)


@pytest.mark.parametrize(
    ("also", "message"),
    [
        ({"r_at": "x"}, "r_at is not one whole number from 0 to 186"),
        ({"r_at": 187}, "r_at is not one whole number"),
        ({"r_at": [62, 62]}, "r_at is not one whole number"),
        ({"unit": "mV"}, "unit is not '1/200 mV'; leave it out"),
        ({"record": np.array([b"\xff\xfe"] * 30)}, "record is not text"),
    ],
)
def test_a_bad_array_beside_the_beats_is_an_error_of_one_line(tmp_path, also, message):
    """Of any kind."""
    np.savez(tmp_path / "b.npz", X=beats(30), **also)
    with pytest.raises(DataError, match=message):
        read_npz(tmp_path / "b.npz", labelled=False)


@pytest.mark.parametrize("mark", [",", "."])
def test_marks_of_thousands_are_refused(tmp_path, mark):
    """1,024 is not 1.024."""
    rows = beats(30) * 8
    text = "\n".join(";".join(f"{int(v):,}".replace(",", mark) for v in row) for row in rows)
    (tmp_path / "b.csv").write_text(text)
    with pytest.raises(DataError, match="may be a thousand times as much"):
        read_csv(tmp_path / "b.csv", labelled=False)
    write(tmp_path / "b.csv", beats(30))
    text = (tmp_path / "b.csv").read_text().replace(",", ".000" + ",").replace("\n", ".000\n")
    (tmp_path / "b.csv").write_text(text)
    assert np.array_equal(read_csv(tmp_path / "b.csv", labelled=False).x, beats(30))


def test_excels_first_line_bars_and_a_column_of_decimal_commas_are_read(tmp_path):
    """And names that are empty but for the class."""
    path, rows = tmp_path / "b.csv", np.c_[beats(30), Y]
    path.write_text("sep=;\n" + lines_of(rows, ",".join([*S, "class"])).replace(",", ";"))
    assert np.array_equal(read_csv(path).x, beats(30))
    path.write_text(lines_of(rows).replace(",", "|"))
    assert np.array_equal(read_csv(path).x, beats(30))
    path.write_text(lines_of(rows, "," * 187 + "class"))
    assert np.array_equal(read_csv(path).x, beats(30))
    path.write_text("\n".join(f"{v:.3f}".replace(".", ",") for v in beats(1)[0]))
    assert np.array_equal(read_csv(path, labelled=False).x, beats(1))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (lines_of(np.c_[beats(30), Y, Y]), "189 columns; .* a first row of names"),
        (lines_of(np.c_[beats(30), Y - 1]), "6 of 30 rows .* line 1 has the class -1"),
        (lines_of(beats(3)).encode("utf-16"), "iconv -f UTF-16 -t UTF-8 b.csv$"),
        (lines_of(beats(3)).encode("utf-16-be"), "iconv -f UTF-16BE -t UTF-8 b.csv$"),
    ],
)
def test_a_line_says_what_to_do(tmp_path, text, message):
    """With names, or in another encoding."""
    (tmp_path / "b.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=message):
        read_csv(tmp_path / "b.csv")
