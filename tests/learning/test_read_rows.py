"""`flctl.read_rows`, with which the examples read their CSV files."""

import importlib
import os
import sys
from pathlib import Path

import pytest

import flctl

EXAMPLES = Path(__file__).parents[2] / "examples"


def table(path, *rows):
    path.write_text("\n".join(["name,a,b", *rows, *[f"n{i},{i},1" for i in range(40)]]) + "\n")
    return path


def test_a_row_that_cannot_be_read_is_left_out_and_named(tmp_path, caplog):
    """Too short, too long, or text for a number; the others keep their texts."""
    path = table(tmp_path / "t.csv", "x,1,oops", "y,1", 'z,"2",3,4', 'w,"2",0.5')
    rows = flctl.read_rows(path, numbers=("a", "b", "absent"))
    assert rows[0] == {"name": "w", "a": 2.0, "b": 0.5} and len(rows) == 41
    (said,) = caplog.messages
    assert said.startswith(f"{path}: rows left out: 3: line 2 could not convert string to float: ")
    assert "line 3 has 2 values, the first line names 3; line 4 has 4 values" in said


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["x,1,oops"] * 5, r"5 of 45 rows cannot be read: line 2 .* line 4 .* and 2 more; correct"),
        (None, "cannot be read: No such file"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line(tmp_path, rows, said):
    path = tmp_path / "t.csv" if rows is None else table(tmp_path / "t.csv", *rows)
    with pytest.raises(flctl.DataError, match=said) as caught:
        flctl.read_rows(path, numbers=("b",))
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_no_row_spans_lines(tmp_path, caplog):
    path = table(tmp_path / "t.csv", '"x,1,2', 'y,1,"2', '"z",1,2')
    rows = flctl.read_rows(path, numbers=("a", "b"))
    assert len(rows) == 41 and rows[0]["name"] == "z"
    why = "has a quotation mark that is not closed"
    assert caplog.messages == [f"{path}: rows left out: 2: line 2 {why}; line 3 {why}"]


def test_a_pipe_is_not_waited_for_and_another_encoding_is_named(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(flctl.DataError, match=r"pipe\.csv: is not a regular file"):
        flctl.read_rows(tmp_path / "pipe.csv")
    for form, name in (("latin1", "LATIN1"), ("utf-16-le", "UTF-16LE")):
        (tmp_path / "t.csv").write_bytes("name\nMüller\n".encode(form))
        with pytest.raises(
            flctl.DataError, match=rf"is not UTF-8; convert it: iconv -f {name} -t UTF-8 t\.csv$"
        ):
            flctl.read_rows(tmp_path / "t.csv")


@pytest.mark.parametrize("name", ["regression/flctl_energy", "anomaly/flctl_pump"])
def test_an_example_trains_without_its_broken_rows(tmp_path, monkeypatch, name):
    folder, package = name.split("/")
    monkeypatch.syspath_prepend(str(EXAMPLES / folder))
    module = importlib.import_module(f"{package}.task")
    task = {"flctl_energy": "Energy", "flctl_pump": "Pump"}[package]
    lines = (EXAMPLES / name / "readings.csv").read_text().splitlines()
    whole = len(getattr(module, task)().train_data(None))
    lines[1] = "broken"
    (tmp_path / "readings.csv").write_text("\n".join(lines) + "\n")
    assert len(getattr(module, task)().train_data(tmp_path / "readings.csv")) == whole - 1
    for each in [each for each in sys.modules if each.startswith(package)]:
        del sys.modules[each]


def test_a_file_that_is_still_being_written_is_not_read_in_part(tmp_path):
    """Its last line is cut off; a whole one without a line feed at its end is read."""
    path = table(tmp_path / "t.csv")
    text = path.read_text()
    path.write_text(text[:-3])
    with pytest.raises(
        flctl.DataError, match=r"line 41, the last one, is cut off: .*being written"
    ):
        flctl.read_rows(path, numbers=("a", "b"))
    path.write_text(text[:-1])
    assert len(flctl.read_rows(path, numbers=("a", "b"))) == 40
