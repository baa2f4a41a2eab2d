"""Task `sensors`: windows of time series, without gaps and without leaks."""

import math
import tracemalloc

import msgspec
import numpy as np
import pytest
import torch

from flctl.errors import DataError, OtherData, SettingsError, TaskError
from flctl.learning.examples import Examples
from flctl.learning.series_sample import sample_files
from flctl.learning.task import load_task


def table(path, rows, head="time,a,b,label"):
    path.write_text("\n".join([head, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


def steady(n, label="normal", start=0, step=10):
    return [(start + step * i, i % 7, 100 + i % 5, label) for i in range(n)]


def sensors(**args):
    return load_task("sensors", {"window": 8, "stride": 8, "fill": 0, **args})


def settled(path, **args):
    task = sensors(**args)
    task.settle(path)
    return task


def test_parts_follow_each_other_in_time_and_share_no_sample(tmp_path):
    """The training part ends before the validation part, that before the test part."""
    rows = [(i, i, 0, "normal") for i in range(200)]
    task = settled(table(tmp_path / "pi.csv", rows), center=[0, 0], spread=[1, 1], stride=1)
    path = tmp_path / "pi.csv"
    parts = [task.train_data(path), task.validation(path), task.held_out(path)]
    seen = [set(part.array[:, 0].reshape(-1).tolist()) for part in parts]
    assert max(seen[0]) < 136 <= min(seen[1]) and max(seen[1]) < 160 <= min(seen[2])


def test_standardisation_knows_the_devices_own_training_part_alone(tmp_path):
    """What comes later, and what another device measures, changes no number of it."""
    path = table(tmp_path / "pi.csv", steady(200))
    before = settled(path).train_data(path).array
    assert abs(before.mean()) < 0.1 and 0.8 < before.std() < 1.2
    later = [row if i < 160 else (row[0], 1e5, -1e5, "normal") for i, row in enumerate(steady(200))]
    table(path, later)
    table(tmp_path / "other.csv", [(t, 50 * a, b - 900, c) for t, a, b, c in steady(200)])
    both = settled(tmp_path).train_data(tmp_path)
    assert np.array_equal(both.array[both.group == "pi"], before)


def test_no_window_spans_a_gap_and_it_is_said(tmp_path):
    """A jump in time and a missing value end a window; short ones are interpolated on demand."""
    rows = steady(200)
    rows[40] = (rows[40][0], "", rows[40][2], "normal")
    del rows[100:105]
    path = table(tmp_path / "pi.csv", rows)
    task = settled(path)
    (origin,) = task.origins(path)
    assert origin.left_out["samples with a missing value, or one of 1e30 or more"] == 1
    assert origin.left_out["gaps, which no window spans"] == 2
    whole = settled(path, fill=1)
    (filled,) = whole.origins(path)
    assert filled.facts["samples interpolated"] == 1
    assert filled.left_out["gaps, which no window spans"] == 1
    assert len(whole.train_data(path)) >= len(task.train_data(path))


def test_rows_out_of_order_and_of_one_time_are_sorted_and_said(tmp_path):
    rows = steady(200)
    swapped = [*rows[:50], rows[51], rows[50], *rows[52:], rows[-1]]
    path = table(tmp_path / "pi.csv", swapped)
    (origin,) = settled(path).origins(path)
    assert origin.facts["samples sorted by time"] == 2
    assert origin.left_out["samples with the time of another"] == 1
    straight = table(tmp_path / "straight.csv", rows)
    assert settled(path).train_data(path).digest == settled(straight).train_data(straight).digest


def test_several_devices_in_one_file_are_asked_for_their_column(tmp_path):
    """Else all but one sample of each time would be lost without a word."""
    names = ("m1", "m2", "m3", "m4")
    rows = [(t, a, b, label, name) for t, a, b, label in steady(100) for name in names]
    path = tmp_path / "all.csv"
    path.write_text("\n".join(["time,a,b,label,machine", *(",".join(map(str, r)) for r in rows)]))
    with pytest.raises(DataError, match=r"300 of 400 samples .*--task-args device=COLUMN"):
        settled(path).train_data(path)
    with pytest.raises(DataError, match="no column 'maschine'; it has time, a, b, label, machine"):
        settled(path, device="maschine").train_data(path)
    assert set(settled(path, device="machine").train_data(path).group) == {*names}


def test_dates_and_seconds_say_the_same(tmp_path):
    """ISO 8601, seconds and milliseconds since 1970, a semicolon with decimal commas."""
    from datetime import UTC, datetime

    base = 1_772_409_600
    rows = steady(100, start=base)
    made = {}
    for name, shown in {
        "seconds": str,
        "milliseconds": lambda t: str(1000 * t),
        "dates": lambda t: datetime.fromtimestamp(t, UTC).isoformat(),
    }.items():
        path = table(tmp_path / f"{name}.csv", [(shown(t), *rest) for t, *rest in rows])
        (origin,) = settled(path).origins(path)
        made[name] = origin.facts["interval, s"], settled(path).train_data(path).digest
    german = tmp_path / "german.csv"
    lines = [";".join(map(str, row)).replace(".", ",") for row in rows]
    german.write_text("\n".join(["time;a;b;label", *lines]))
    made["german"] = 10.0, settled(german).train_data(german).digest
    assert len(set(made.values())) == 1


def test_classes_come_from_the_run_or_the_data_and_a_foreign_one_is_named(tmp_path):
    rows = [(t, a, b, "idle" if t < 1000 else "run") for t, a, b, _ in steady(200)]
    path = table(tmp_path / "pi.csv", rows)
    task = settled(path, learn="class")
    assert task.classes == ("idle", "run") and task.all_args["columns"] == ["a", "b"]
    ordered = settled(path, learn="class", classes=["run", "off", "idle"])
    assert set(ordered.train_data(path).targets) == {0, 2}
    with pytest.raises(DataError, match="'label' is 'run', no class of this run \\(idle, off\\)"):
        settled(path, learn="class", classes=["idle", "off"]).train_data(path)


def test_a_window_with_two_classes_is_left_out(tmp_path):
    rows = [(t, a, b, "idle" if t < 1005 else "run") for t, a, b, _ in steady(200)]
    path = table(tmp_path / "pi.csv", rows)
    (origin,) = settled(path, learn="class").origins(path)
    assert origin.left_out["windows without one target"] == 1


def test_a_number_is_that_of_the_last_sample_or_later(tmp_path):
    rows = [(i, math.sin(i / 9), i, 10 * i) for i in range(200)]
    path = table(tmp_path / "pi.csv", rows)
    now, later = settled(path, learn="number"), settled(path, learn="number", ahead=3)
    assert now.train_data(path).targets[:2].tolist() == [70, 150]
    assert later.train_data(path).targets[:2].tolist() == [100, 180]
    assert now.scale > 100 and now.center > 100


def test_anomalies_are_not_trained_on_but_tested(tmp_path):
    rows = [(t, a, b, "worn" if 20 <= i < 30 or i > 180 else "ok")
            for i, (t, a, b, _) in enumerate(steady(200))]  # fmt: skip
    path = table(tmp_path / "pi.csv", rows)
    task = settled(path)
    assert not task.train_data(path).targets.any()
    assert task.held_out(path).targets.any()


def test_a_file_without_the_target_is_predicted_to_its_end(tmp_path):
    """Also where a number is forecast, and without its column it is not trained on."""
    rows = [(i, math.sin(i / 9), i, 10 * i) for i in range(200)]
    path = table(tmp_path / "pi.csv", rows)
    task = settled(path, learn="number", ahead=16)
    bare = table(tmp_path / "bare.csv", [row[:3] for row in rows], head="time,a,b")
    cases = task.cases(bare)
    assert not cases.labelled and len(cases.examples) == 25 and cases.at_s[-1] == 199
    with pytest.raises(DataError, match="no column 'label'"):
        task.train_data(bare)


def test_parquet_is_read_as_csv_is(tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    rows = steady(100)
    plain = table(tmp_path / "pi.csv", rows)
    columns = dict(zip(("time", "a", "b", "label"), zip(*rows, strict=True), strict=True))
    packed = tmp_path / "pi.parquet"
    parquet.write_table(pa.table({name: list(column) for name, column in columns.items()}), packed)
    assert settled(packed).train_data(packed).digest == settled(plain).train_data(plain).digest
    packed.write_bytes(packed.read_bytes()[:-9])
    with pytest.raises(DataError, match="not a Parquet file"):
        settled(packed)


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ("1,2,3\n4,5,6\n", OtherData, "does not name the columns"),
        ("x,a,b\n1,2,3\n", OtherData, "no column 'time'"),
        ("time,a\n1,2\n2,x\n", OtherData, "no column of numbers"),
        ("time,a,b\n1,2,3\n2,5\n", DataError, "1 of 2 rows cannot be read: line 3 has 2 values"),
        ("time,a,b\n1,2,3\nsoon,5,6\n", DataError, "line 3 has 'soon' in column 'time'"),
        ("time,a,b\n1,2,3,\n2,5,6,\n", DataError, "2 of 2 rows cannot be read: line 2 has 4"),
        ("time,a,b\n1,2,3\n2,5,6\n", DataError, "no window of 8 samples"),
        ("time,a,b\n", OtherData, "no rows below"),
        ("", OtherData, "does not name the columns"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path, text, kind, said):
    path = tmp_path / "pi.csv"
    path.write_text(text)
    with pytest.raises(kind, match=said):
        settled(path).train_data(path)


def broken(path, *rows, of=200):
    """A table with rows that cannot be read in these lines."""
    lines = table(path, steady(of)).read_text().splitlines()
    for line, text in rows:
        lines[line - 1] = text
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_row_that_cannot_be_read_is_left_out_named_and_counted(tmp_path, caplog):
    """By file and line, for people and in the log, once; its column stays one of numbers."""
    rows = (2, "soon,1,1,normal"), (9, "70,1"), (40, "390,x,2,normal"), (90, "\0\0\0")
    path = broken(tmp_path / "pi.csv", *rows)
    task = settled(path, window=2, stride=1)
    assert task.args.columns == ("a", "b")
    (origin,) = task.origins(path)
    named = (
        "line 2 has 'soon' in column 'time', which is no time; line 9 has 2 values, the first line "
        "names 4; line 40 has 'x' in column 'a', which is no number and 1 more"
    )
    assert origin.left_out[f"rows of pi.csv that cannot be read: {named}"] == 4
    assert caplog.messages == [f"{path}: rows left out: 4: {named}"]
    assert origin.left_out["gaps, which no window spans"] == 3
    assert len(task.train_data(path)) + len(task.held_out(path)) > 100


def test_a_file_with_many_such_rows_is_refused_with_the_first_lines(tmp_path):
    path = broken(tmp_path / "pi.csv", *((line, "x,1,2,normal") for line in range(20, 42)))
    told = (
        "22 of 200 rows cannot be read: line 20 has .* line 21 .* line 22 .* and 19 more; correct"
    )
    with pytest.raises(DataError, match=told) as caught:
        settled(path)
    assert "\n" not in str(caught.value)


def test_a_number_to_learn_that_is_none_is_left_out_too(tmp_path):
    rows = [(i, math.sin(i / 9), i, 10 * i) for i in range(200)]
    rows[7], rows[30] = (7, 0, 7, "?!"), (30, 0, 30, "1e308")
    task = settled(table(tmp_path / "pi.csv", rows), learn="number", window=2, stride=1)
    y = task.train_data(tmp_path / "pi.csv").targets
    assert np.isfinite(y).all() and not {70, 300} & {*y.tolist()}


def test_a_prediction_names_the_line_that_its_window_ends_in(tmp_path):
    """Also where rows were left out, sorted or interpolated."""
    path = broken(tmp_path / "pi.csv", (2, "0,,"), (5, "x"), (20, "180,,,"), of=40)
    task = settled(path, window=4, stride=1, fill=1)
    lines, times = task.cases(path).line.tolist(), task.cases(path).at_s.tolist()
    ends = {time: line for line, time in zip(lines, times, strict=True)}
    assert ends[80] == 11 and ends[380] == 41
    assert ends[170] == ends[160] == 19, "an interpolated sample has the line before it"


def test_windows_take_the_memory_of_their_samples(tmp_path):
    """All parts share them; batches and the digest are those of copies."""
    path = table(tmp_path / "pi.csv", [(i, i % 7, i % 11, "normal") for i in range(4000)])
    tracemalloc.start()
    task = settled(path, window=400, stride=1)
    parts = [task.train_data(path), task.validation(path), task.held_out(path)]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    whole = 4 * 2 * 400 * sum(map(len, parts))
    assert peak < whole / 4
    for part in parts:
        copy = Examples(part.array, part.targets, group=part.group)
        assert copy.digest == part.digest and copy.rows() == part.rows()
        rows = np.array([3, 0, 3])
        for one, other in ((part, copy), (part.select(rows), copy.select(rows))):
            assert torch.equal(one.batch([0, 2])[0], other.batch([0, 2])[0])
            assert torch.equal(one.run(1, 3)[0], other.run(1, 3)[0])
            assert torch.equal(one[1][0], other[1][0]) and one.x.is_contiguous()


def test_a_share_is_of_the_run_it_was_dealt_for(tmp_path):
    """Classes in another order would be mistaken for one another."""
    rows = [(t, a, b, "idle" if t < 1000 else "run") for t, a, b, _ in steady(200)]
    task = settled(table(tmp_path / "pi.csv", rows), learn="class", window=8)
    (share := tmp_path / "share").mkdir()
    task.write(share, task.train_data(tmp_path / "pi.csv"), {})
    assert len(settled(share, learn="class", window=8).train_data(share).targets)
    for other, words in (
        ({"classes": ["run", "idle"]}, r"classes \('idle', 'run'\), not \('run', 'idle'\)"),
        ({"columns": ["b", "a"]}, "columns .*, not "),
        ({"window": 9}, "window 8, not 9"),
    ):
        with pytest.raises(DataError, match=words):
            settled(share, **{"learn": "class", "window": 8, **other}).train_data(share)


def test_arguments_that_it_does_not_have_are_refused():
    with pytest.raises(SettingsError, match="no argument 'windows'; did you mean 'window'"):
        load_task("sensors", {"windows": 8})
    with pytest.raises(SettingsError, match="window: must be a whole number >= 2"):
        load_task("sensors", {"window": 1})
    with pytest.raises(SettingsError, match="learn: 'classes' is unknown; it is one of anomaly"):
        load_task("sensors", {"learn": "classes"})


def test_without_data_the_columns_have_to_be_named():
    with pytest.raises(TaskError, match="to find the columns in"):
        load_task("sensors").model()
    with pytest.raises(TaskError, match="to find the classes in"):
        load_task("sensors", {"learn": "class", "columns": ["a"]}).model()


def test_without_data_what_is_usual_of_a_number_has_to_be_named():
    """The readings of the sample, which have other columns, are not blamed."""
    task = load_task("sensors", {"learn": "number", "time": "when", "target": "wear"})
    task.args = msgspec.structs.replace(task.args, columns=("a", "b"))
    with pytest.raises(TaskError, match="target_center"):
        task.settle(None)


def test_too_many_windows_are_refused(tmp_path):
    path = table(tmp_path / "pi.csv", steady(120_000))
    with pytest.raises(DataError, match="choose a larger stride"):
        settled(path, window=8192, stride=1).train_data(path)


def test_the_sample_is_the_same_each_time():
    assert sample_files() == sample_files() and len(sample_files()) == 6
