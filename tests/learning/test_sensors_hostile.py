"""Task `sensors` before files and arguments that are a stranger's: one line, and no memory gone."""

import io
import os
import time
import tracemalloc
import zipfile

import numpy as np
import pytest

from flctl.errors import DataError, OtherData, SettingsError
from flctl.learning import series, series_files
from flctl.learning.arguments import settled as of_run
from flctl.learning.series_args import SeriesArgs
from flctl.learning.series_windows import STORED
from flctl.learning.task import load_task
from flctl.settings import parse


def table(path, rows, head="time,a,b,label"):
    path.write_text("\n".join([head, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


def settled(path, **args):
    task = load_task("sensors", {"window": 8, "stride": 8, "fill": 0, **args})
    task.settle(path)
    return task


def test_as_many_devices_as_rows_take_no_longer_than_one(tmp_path):
    """A wrong column 'device' has another value in each row: no loop over rows for each of them."""
    rows = [(i, i % 7, f"d{i}") for i in range(30_000)]
    path = table(tmp_path / "pi.csv", rows, head="time,a,device")
    args = SeriesArgs(columns=("a",))
    tables = [series_files.read_table(path, args)]
    began = time.process_time()
    assert len(series.lines_of(tables)) == 30_000
    assert time.process_time() - began < 10


@pytest.mark.parametrize("learn", ["class", "anomaly"])
def test_targets_need_no_memory_for_each_sample_of_each_window(learn):
    """An order of a hostile coordinator, stride=1 and window=16384, is refused for the memory of
    the windows themselves, before their targets need eight times as much."""
    args = SeriesArgs(learn=learn, window=16_384, stride=1)
    known = np.array(["normal", "odd"])[np.arange(40_000) % 2]
    tracemalloc.start()
    series._targets(np.arange(20_000), known, args)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20 * 2**20


def test_targets_are_those_of_every_sample_of_a_window(tmp_path):
    """As looking at each sample says."""
    labels = ["a", "a", "b", "normal", "c"]
    rng = np.random.default_rng(1)
    known = np.array([labels[i] for i in np.repeat(rng.integers(0, 5, 60), 5)])
    begin = np.arange(0, len(known) - 8, 3)
    windows = [known[at : at + 8] for at in begin]
    for learn, expected in (
        ("class", [w[-1] if len({*w}) == 1 else "" for w in windows]),
        ("anomaly", [next((each for each in w if each != "normal"), "") for w in windows]),
    ):
        args = SeriesArgs(learn=learn, window=8)
        assert series._targets(begin, known, args).tolist() == expected


def test_samples_that_are_interpolated_are_counted_before_they_are_made(tmp_path, monkeypatch):
    monkeypatch.setattr(series, "MOST_NUMBERS", 20_000)
    rows = [(i + 900 * (i // 2), i % 7, 1, "normal") for i in range(100)]
    path = table(tmp_path / "pi.csv", rows)
    with pytest.raises(DataError, match="smaller fill"):
        settled(path, fill=1000).train_data(path)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("bad", ["inf", "-inf", "1e308", "9.96921e36"])
def test_a_number_that_none_can_be_counts_as_missing(tmp_path, bad):
    """In the time and in a column, which stays one of numbers."""
    rows = [(i, i % 7, i % 5, "normal") for i in range(200)]
    rows[50], rows[120] = (50, bad, 0, "normal"), (bad, 1, 0, "normal")
    path = table(tmp_path / "pi.csv", rows)
    task = settled(path)
    assert task.args.columns == ("a", "b")
    (origin,) = task.origins(path)
    assert origin.left_out["samples with a missing value, or one of 1e30 or more"] == 2


@pytest.mark.parametrize("field", [0, 1, 3])
@pytest.mark.parametrize("delimiter", [",", ";"])
def test_a_quotation_mark_that_is_not_closed_costs_its_own_row(tmp_path, field, delimiter):
    """Also the last row of a file; it is counted, and its text becomes no class."""
    states = ("idle", "run")
    rows = [[str(i), str(i % 7), str(i % 5), states[i % 40 > 19]] for i in range(300)]
    for at in (100, 299):
        rows[at][field] = '"' + rows[at][field]
    path = tmp_path / "pi.csv"
    lines = ["time,a,b,state", *map(",".join, rows)]
    path.write_text("\n".join(lines).replace(",", delimiter) + "\n")
    found = series_files.read_table(path, SeriesArgs(learn="class", target="state"))
    assert len(found.line) == 298 and set(found.target) == {*states}
    assert not {102, 301} & {*found.line.tolist()} and found.columns == ("a", "b")
    why = "has a quotation mark that is not closed"
    said = f"rows of pi.csv that cannot be read: line 102 {why}; line 301 {why}"
    assert found.left_out == {said: 2}


def test_many_quotation_marks_that_are_not_closed_refuse_the_file(tmp_path):
    """Also where all rows have one."""
    for every in (2, 1):
        rows = [(i, 1, 2, '"odd' if i % every == 0 else "fine") for i in range(100)]
        said = f"{100 // every} of 100 rows cannot be read: line 2 has a quotation mark that is not"
        with pytest.raises(DataError, match=said):
            settled(table(tmp_path / "pi.csv", rows))


def test_quoted_fields_are_read_as_they_are(tmp_path):
    """With delimiters and quotation marks within; one in the middle of a field is a character."""
    rows = [(i, f'"{i}"', 2, ('"odd, ""very"""', '"fine"', '2" pipe')[i % 3]) for i in range(90)]
    found = series_files.read_table(table(tmp_path / "pi.csv", rows), SeriesArgs())
    assert found.inputs[:, 0].tolist() == [*range(90)] and not found.left_out
    assert found.target[:3] == ['odd, "very"', "fine", '2" pipe']


@pytest.mark.parametrize("quote", ["", '"'])
def test_a_field_that_is_too_long_is_a_broken_row(tmp_path, quote):
    rows = [(i, 1, 2, quote + "x" * (200_000 * (i == 50)) + quote) for i in range(100)]
    found = series_files.read_table(table(tmp_path / "pi.csv", rows), SeriesArgs())
    (said,) = found.left_out
    assert "line 52 has a field larger than field limit (131072)" in said


@pytest.mark.parametrize("form", ["utf-16", "utf-16-le", "utf-16-be", "latin1"])
def test_another_encoding_is_named_with_how_to_convert_it(tmp_path, form):
    path = table(tmp_path / "pi.csv", [(i, 1, 2, "grün") for i in range(100)])
    path.write_bytes(path.read_text().encode(form))
    name = {"latin1": "LATIN1", "utf-16": "UTF-16"}.get(form, form.upper().replace("16-", "16"))
    said = f"pi.csv: is not UTF-8; convert it: iconv -f {name} -t UTF-8 pi.csv$"
    with pytest.raises(DataError, match=said):
        settled(path)


def test_a_pipe_or_a_device_is_one_line(tmp_path):
    """It is not opened, which would wait for its writer."""
    os.mkfifo(tmp_path / "pi.csv")
    for path in (tmp_path / "pi.csv", "/dev/null"):
        with pytest.raises(DataError, match=f"^{path}: is not a regular file$"):
            settled(type(tmp_path)(path))


def test_a_column_that_is_named_twice_is_refused():
    with pytest.raises(SettingsError, match="columns has 'a' twice"):
        load_task("sensors", {"columns": ["a", "b", "a"]})


def test_the_columns_that_are_used_are_told(tmp_path):
    """One in which nothing is known is none of them."""
    path = table(tmp_path / "pi.csv", [(i, "nan", i % 7, "normal") for i in range(200)])
    assert settled(path).origins(path)[0].facts["columns"] == "b"


def parquet_of(path, table, **options):
    from pyarrow import parquet

    parquet.write_table(table, path, **options)
    return path


def test_dates_of_parquet_are_times(tmp_path):
    import datetime

    import pyarrow as pa

    days = [datetime.date(2026, 1, 1) + datetime.timedelta(i) for i in range(100)]
    path = parquet_of(tmp_path / "pi.parquet", pa.table({"time": days, "a": [*range(100)]}))
    assert settled(path).origins(path)[0].facts["interval, s"] == 86_400


def test_a_parquet_file_that_unpacks_to_anything_is_refused_by_its_header(tmp_path, monkeypatch):
    import pyarrow as pa

    monkeypatch.setattr(series_files, "MOST_VALUES", 1_000)
    path = parquet_of(tmp_path / "pi.parquet", pa.table({"time": [*range(600)], "a": [1] * 600}))
    with pytest.raises(DataError, match="more than 1,000 values"):
        settled(path)


def test_odd_parquet_is_one_line(tmp_path):
    import pyarrow as pa

    two = pa.Table.from_arrays([pa.array([1]), pa.array([1]), pa.array([1])], ["time", "a", "a"])
    with pytest.raises(OtherData, match="same name"):
        settled(parquet_of(tmp_path / "two.parquet", two))
    far = pa.table({"time": pa.array([8 * 10**18] * 20, pa.timestamp("us")), "a": [*range(20)]})
    with pytest.raises(DataError, match="not a Parquet file: date value out of range"):
        settled(parquet_of(tmp_path / "far.parquet", far))


def stored(folder, **changes):
    arrays = {
        "x": np.zeros((50, 1, 8), np.float32), "y": np.zeros(50, np.int64),
        "device": np.array(["a"] * 50), "part": np.array([0] * 40 + [2] * 10, np.uint8),
        "columns": np.array(["a"]), "classes": np.array([], np.str_), "learn": np.array("anomaly"),
    } | changes  # fmt: skip
    np.savez(folder / STORED, **arrays)
    return folder


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"x": np.zeros((50, 1, 4), np.float32)}, "window 4, not 8: set --task-args"),
        ({"x": np.zeros((50, 3, 8), np.float32)}, "3 columns, with 1 names"),
        ({"x": np.full((50, 1, 8), np.nan, np.float32)}, "NaN or infinite"),
        ({"x": np.zeros((50, 8), np.float32)}, "no windows of"),
        ({"part": np.zeros((50, 2), np.uint8)}, "no windows of"),
        ({"part": np.zeros(50)}, "arrays of other types"),
        ({"device": np.array([["a"]] * 50)}, "no windows of"),
        ({"columns": np.array([1])}, "arrays of other types"),
        ({"y": np.array([None] * 50)}, "cannot be read"),
    ],
)
def test_damaged_windows_are_one_line(tmp_path, changes, said):
    folder = stored(tmp_path, **changes)
    with pytest.raises(DataError, match=said):
        settled(folder).train_data(folder)


def test_windows_that_claim_more_than_there_is_cost_no_memory(tmp_path):
    head = io.BytesIO()
    shape = {"descr": "<f4", "fortran_order": False, "shape": (2**40, 1, 8)}
    np.lib.format.write_array_header_1_0(head, shape)
    folder = stored(tmp_path)
    with zipfile.ZipFile(folder / STORED) as there:
        parts = {name: there.read(name) for name in there.namelist()}
    with zipfile.ZipFile(folder / STORED, "w") as made:
        for name, data in parts.items():
            made.writestr(name, head.getvalue() if name == "x.npy" else data)
    with pytest.raises(DataError, match="cannot be read"):
        settled(folder)


@pytest.mark.parametrize("label", ["{i}", "x" * 101])
def test_classes_from_the_data_are_bounded_as_those_of_an_order_are(tmp_path, label):
    """Agents would refuse the run's arguments later."""
    rows = [(i, 1, 2, label.format(i=i) if i % 2 else "b") for i in range(2400)]
    path = table(tmp_path / "pi.csv", rows)
    settings = parse({"task": "sensors", "data": str(path), "virtual": 2}, "here")
    with pytest.raises(SettingsError, match="task 'sensors': classes"):
        of_run(load_task("sensors", {"learn": "class"}), settings)


def test_a_file_without_rows_says_so_and_does_not_hinder_a_run(tmp_path):
    """It said that no column has numbers. A run knows its columns: the day has only begun."""
    with pytest.raises(DataError, match=r"pi\.csv: no rows below the names of its columns$"):
        settled(table(tmp_path / "pi.csv", []))
    table(tmp_path / "now.csv", [(i, 1, 2, 0) for i in range(100)])
    assert len(settled(tmp_path, columns=["a", "b"]).train_data(tmp_path))


@pytest.mark.parametrize(
    ("args", "wrong"),
    [({}, "columns: must be a list"), ({"learn": "class", "target": "label"}, "classes: must be")],
)
def test_too_many_columns_or_classes_of_the_data_are_no_mistake_in_what_was_typed(
    tmp_path, args, wrong
):
    """'task_args … columns: must be a list of length <= 64' was all, and none had been given."""
    head = ",".join(["time", "label", *(f"c{n}" for n in range(3 if args else 70))])
    rows = [(n, f"k{n}", *range(head.count(",") - 1)) for n in range(1200)]
    path = table(tmp_path / "pi.csv", rows, head)
    settings = parse({"task": "sensors", "data": str(path)}, "x")
    task = load_task("sensors", {"window": 8, **args})
    found = rf"{wrong}.*, which those found in {path} are not: name some with --task-args$"
    with pytest.raises(SettingsError, match=found):
        of_run(task, settings)
