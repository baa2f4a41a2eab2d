"""Heartbeats from CSV files: one beat a row, 187 samples and, if it is known, its class.

That is the form of Kaggle's heartbeat data (mitbih_train.csv, mitbih_test.csv; Kachuee et al.
2018, https://arxiv.org/abs/1805.00794), and of what people make of them with other programs.
"""

import itertools
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flctl.errors import DataError, NothingToUse, one_line
from flctl.formats import counted
from flctl.learning.bad_rows import MOST, BadRows, open_text, unreadable
from flctl.learning.beats import LIMIT_BYTES, WINDOW, Array, Beats
from flctl.learning.beats_layout import apply, find_layout
from flctl.learning.csv_form import MANY, MISSING, Form, form_of, number, thousands
from flctl.learning.origin import AS_IT_IS, ReadAs
from flctl.learning.rhythm import Rhythm, with_usual
from flctl.learning.wfdb_annotations import AAMI

ROWS_AT_ONCE = 2048
NO_ROW = re.compile(r"#(?!n/a)|sep=.$", re.IGNORECASE)
"""A comment, or Excel's note of its delimiter."""
LONGEST_ROW = 4 * 1024**2
Line = tuple[int, str]
"""With its number in the file, from 1."""


def read_csv(path: Path, labelled: bool = True, read_as: ReadAs = AS_IT_IS) -> Beats:
    """187 columns and a class, which may be absent unless `labelled`; names of the columns and
    numbers of the rows are passed over; a single column of 187 numbers is one beat. How the rows
    are laid out is found out from all of them. Raises DataError.
    """
    if path.stem.startswith("ptbdb_"):
        raise NothingToUse(
            f"{path}: Kaggle's ptbdb files say only whether a beat is normal, not which of the "
            "five classes it is of; leave them out"
        )
    bad = BadRows()
    try:
        table = _read(path, labelled, bad)
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(path, error) from error
    x, form = table.x, table.form
    layout = find_layout(x, read_as.r_at)
    apply(layout, x)
    good = np.isfinite(x).all(axis=1)
    bad |= {int(line): "lacks numbers of its beat" for line in table.line[~good]}
    left_out = bad.left_out(path, int(good.sum()) + len(bad))
    over = one_line(", ".join(form.passed_over), 100)
    return Beats(
        x=x[good],
        y=None if table.y is None else table.y[good],
        record=np.full(int(good.sum()), path.stem),
        split=None,
        where=str(path),
        in_time=False,
        rhythm=None if table.rhythm is None else table.rhythm[good],
        line=table.line[good],
        note=layout.note,
        facts=layout.facts | ({"columns passed over": over} if over else {}),
        left_out={"beats that a program made the names of columns": int(form.lost)} | left_out,
    )


class _Table(NamedTuple):
    x: NDArray[np.float32]
    y: NDArray[np.int64] | None
    rhythm: Rhythm | None
    form: Form
    line: NDArray[np.int64]


def _read(path: Path, labelled: bool, bad: BadRows) -> _Table:
    """Samples as they stand there, classes and intervals, but for what is added to `bad`."""
    most = _lines(path)
    with open_text(path, newline=None) as file:
        lines = (
            (at, line)
            for at, line in enumerate(file, start=1)
            if line.strip() and not NO_ROW.match(line)
        )
        begin = list(itertools.islice(lines, 5))
        if not begin:
            raise DataError(f"{path}: no examples")
        first = [line for _, line in begin]
        form, at = form_of(first), list[int]()
        tables = _tables(path, form, itertools.chain(begin, lines), bad, at, most)
        if form.columns == 1:
            column = _single_column(path, tables)
            return _Table(column, None, None, form, np.array(at[:1]))
        if len(form.samples) != WINDOW:
            next(tables, None)  # which may have more to say
            hint = "; a first row of names, s0 to s186 and class, tells which is which"
            raise DataError(
                f"{path}: {counted(form.columns, 'column')}; a beat has {WINDOW}, and one more "
                f"for its class{hint if form.columns > WINDOW else ''}"
            )
        if found := thousands(form, first):
            raise DataError(f"{path}: {found} may be a thousand times as much: write the numbers "
                            "without a mark of thousands, or with more decimals")  # fmt: skip
        x, y = np.empty((most, WINDOW), np.float32), np.empty(most, np.float32)
        rival, ms = np.empty(most, np.float32), np.empty((most, len(form.rhythm)), np.float32)
        n = 0
        for table in tables:
            end = n + len(table)
            x[n:end] = table[:, list(form.samples)]
            if form.label is not None:
                y[n:end] = table[:, form.label]
            ms[n:end] = table[:, list(form.rhythm)]
            if form.rival is not None:
                rival[n:end] = table[:, form.rival]
            n = end
    if not n:
        raise DataError(f"{path}: no examples")
    _check_rival(path, form, x[:n], rival[:n], y[:n])
    known = dict(zip(("before", "after", "usual"), ms[:n].T, strict=False))
    rhythm = with_usual(**known, in_time=False) if known else None
    line = np.array(at)
    if form.label is not None:
        classes, good = _classes(y[:n])
        for row in np.flatnonzero(~good):
            bad[at[row]] = f"has the class {y[row]:g}, which is no number of a class"
        if not good.any():
            bad.left_out(path, len(bad))
        rhythm = None if rhythm is None else rhythm[good]
        return _Table(x[:n][good], classes[good], rhythm, form, line[good])
    if labelled:
        over = ", ".join(form.passed_over[:3])
        raise NothingToUse(
            f"{path}: {counted(form.columns, 'column')}; the one for the class of each beat is "
            + (f"missing, unless it is {over}: name it 'class'" if over else "missing")
        )
    return _Table(x[:n], None, rhythm, form, line)


def _check_rival(path: Path, form: Form, x: Array, rival: Array, last: Array) -> None:
    """Refuse to guess which column is the class where the first may be it. Raises DataError."""
    known = range(len(set(AAMI.values())))
    values = np.unique(rival)
    if form.rival is None or not np.isin(values, known).all():
        return
    second_too = np.mean(x[:, 1] == 1) > 0.5 and (x < 1).any()
    if np.array_equal(values, [1]) and not second_too:  # Kaggle's beats begin at their R peak
        return
    if form.label is None and len(rival) <= len(known):  # numbers of the rows
        return
    classes = np.unique(last)
    if form.label is not None and np.isin(classes, known).all() and len(classes) > len(values):
        return
    raise DataError(
        f"{path}: the class of each beat may be the first column or the last one: name it 'class' "
        "in a first row of names, and the samples s0 to s186"
    )


def _lines(path: Path) -> int:
    """Upper bound of the number of rows. Raises DataError, OSError."""
    if path.stat().st_size > LIMIT_BYTES:
        raise DataError(f"{path}: larger than {LIMIT_BYTES >> 30} GiB; cut it into several")
    count, since = 1, 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            count += block.count(b"\n") + block.count(b"\r")
            last = max(block.rfind(b"\n"), block.rfind(b"\r"))
            since = since + len(block) if last < 0 else len(block) - last
            if since > LONGEST_ROW:
                raise DataError(f"{path}: not a CSV file of beats: a row is longer than 4 MiB")
    return count


def _tables(
    path: Path, form: Form, lines: Iterator[Line], bad: BadRows, good: list[int], most: int
) -> Iterator[Array]:
    """float32, shape (rows, columns), one after another; adds to `good` and `bad` which lines are.
    Raises DataError where more than a share of `most` are bad."""
    if form.names:
        _, header = next(lines)
        lines = (line for line in lines if line[1] != header)  # files one after another
    while some := list(itertools.islice(lines, ROWS_AT_ONCE)):
        try:
            table = _numbers(form, [line for _, line in some])
            there = [at for at, _ in some]
        except (ValueError, MemoryError):
            table, there = _one_by_one(form, some, bad)
            if len(bad) > MOST * most:
                bad.left_out(path, len(good) + len(there) + len(bad))
        if not len(table):
            continue
        steps = np.diff(table)
        if form.columns > MANY and ((steps[:, :1] != 0) & (steps == steps[:, :1])).all(1).any():
            raise DataError(f"{path}: there are names of columns, in numbers, among the beats; "
                            "remove that row")  # fmt: skip
        good += there
        yield table
    if not good:
        bad.left_out(path, len(bad))


def _numbers(form: Form, lines: list[str]) -> Array:
    """Raises ValueError."""
    if form.decimal_comma:
        lines = [line.replace(",", ".") for line in lines]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            table = _loaded(form, lines)
        except ValueError:
            table = _loaded(form, [_cleaned(form, line) for line in lines])
    if table.shape[1] != form.columns:
        raise ValueError(f"has {counted(table.shape[1], 'column')}, not {form.columns}")
    return table


def _one_by_one(form: Form, lines: Sequence[Line], bad: BadRows) -> tuple[Array, list[int]]:
    """Those that can be read."""
    rows, there = [], []
    for at, line in lines:
        try:
            rows.append(_numbers(form, [line]))
            there.append(at)
        except (ValueError, MemoryError) as error:
            fields = _cleaned(form, line.replace(",", ".") if form.decimal_comma else line)
            odd = ((n, f) for n, f in enumerate(form.fields(fields), 1) if number(f) is None)
            n, field = next(odd, (0, ""))
            wrong = f"has '{one_line(field, 40)}' in column {n}, which is no number"
            bad[at] = wrong if n else one_line(error, 100)
    return np.concatenate(rows or [np.empty((0, form.columns), np.float32)]), there


def _loaded(form: Form, lines: list[str]) -> Array:
    delimiter = None if form.delimiter == " " else form.delimiter
    table: Array = np.loadtxt(
        lines, dtype=np.float32, delimiter=delimiter, quotechar='"', ndmin=2, comments=None
    )
    return table


def _cleaned(form: Form, line: str) -> str:
    """What is missing as 'nan', the class by its letter as a number."""
    fields = ["nan" if f.casefold() in MISSING else f for f in form.fields(line)]
    if form.label is not None and form.label < len(fields):
        fields[form.label] = str(AAMI.get(fields[form.label], fields[form.label]))
    return (" " if form.delimiter == " " else form.delimiter).join(fields)


def _single_column(path: Path, tables: Iterator[Array]) -> NDArray[np.float32]:
    column = np.array([number for table in tables for number in table[:, 0]], np.float32)
    if len(column) != WINDOW:
        raise DataError(f"{path}: 1 column; a beat has {WINDOW}, and one more for its class")
    return column[None]


def _classes(labels: Array) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Numbers of classes, and which of `labels` are some."""
    y = np.nan_to_num(labels, nan=-1, posinf=-1, neginf=-1).astype(np.int64)
    return y, (y == labels) & (y >= 0) & (y < len(set(AAMI.values())))
