"""Heartbeats from CSV files: one beat a row, 187 samples and, if it is known, its class.

That is the form of Kaggle's heartbeat data (mitbih_train.csv, mitbih_test.csv; Kachuee et al.
2018, https://arxiv.org/abs/1805.00794), and of what people make of them with other programs.
"""

import itertools
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flctl.errors import DataError, NothingToUse, one_line
from flctl.learning.beats import LIMIT_BYTES, WINDOW, Array, Beats
from flctl.learning.beats_layout import apply, find_layout
from flctl.learning.csv_form import MANY, MISSING, Form, form_of, thousands
from flctl.learning.origin import AS_IT_IS, ReadAs
from flctl.learning.rhythm import Rhythm, with_usual
from flctl.learning.wfdb_annotations import AAMI

ROWS_AT_ONCE = 2048
NO_ROW = re.compile(r"#(?!n/a)|sep=.$", re.IGNORECASE)
"""A comment, or Excel's note of its delimiter."""
LONGEST_ROW = 4 * 1024**2


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
    try:
        x, y, rhythm, form = _read(path, labelled)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not a CSV file: it is not text in UTF-8; save it with that encoding"
        ) from error
    layout = find_layout(x, read_as.r_at)
    apply(layout, x)
    over = one_line(", ".join(form.passed_over), 100)
    return Beats(
        x=x,
        y=y,
        record=np.full(len(x), path.stem),
        split=None,
        where=str(path),
        in_time=False,
        rhythm=rhythm,
        note=layout.note,
        facts=layout.facts | ({"columns passed over": over} if over else {}),
        as_documented=layout.as_documented and not over,
        left_out={"beats that a program made the names of columns": int(form.lost)},
    )


class _Table(NamedTuple):
    x: NDArray[np.float32]
    y: NDArray[np.int64] | None
    rhythm: Rhythm | None
    form: Form


def _read(path: Path, labelled: bool) -> _Table:
    """Samples as they stand there, classes and intervals."""
    most = _lines(path)
    with path.open(encoding="utf-8-sig") as file:
        lines = (line for line in file if line.strip() and not NO_ROW.match(line))
        first = list(itertools.islice(lines, 5))
        if not first:
            raise DataError(f"{path}: no examples")
        form = form_of(first)
        tables = _tables(path, form, itertools.chain(first, lines))
        if form.columns == 1:
            return _Table(_single_column(path, tables), None, None, form)
        if len(form.samples) != WINDOW:
            next(tables, None)  # which may have more to say
            hint = "; a first row of names, s0 to s186 and class, tells which is which"
            raise DataError(
                f"{path}: {form.columns} columns; a beat has {WINDOW}, and one more for its class"
                f"{hint if form.columns > WINDOW else ''}"
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
    if form.label is not None:
        return _Table(x[:n], _classes(path, y[:n], 1 + form.names), rhythm, form)
    if labelled:
        over = ", ".join(form.passed_over[:3])
        raise NothingToUse(
            f"{path}: {form.columns} columns; the one for the class of each beat is missing"
            + (f", unless it is {over}: name it 'class'" if over else "")
        )
    return _Table(x[:n], None, rhythm, form)


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


def _tables(path: Path, form: Form, lines: Iterator[str]) -> Iterator[Array]:
    """float32, shape (rows, columns), one after another. Raises DataError."""
    seen = 0
    if form.names:
        header = next(lines)
        lines = (line for line in lines if line != header)  # files one after another
    while some := list(itertools.islice(lines, ROWS_AT_ONCE)):
        try:
            table = _numbers(form, some)
        except (ValueError, MemoryError) as error:
            reason = one_line(error, 100).split(";")[0].rstrip(".")
            raise DataError(
                f"{path}: not a CSV file of numbers: {_counted(reason, seen + form.names)}"
            ) from error
        if table.shape[1] != form.columns:
            raise DataError(
                f"{path}: not a CSV file of numbers: the number of columns changed from "
                f"{form.columns} to {table.shape[1]} at row {1 + seen + form.names}"
            )
        steps = np.diff(table)
        if form.columns > MANY and ((steps[:, :1] != 0) & (steps == steps[:, :1])).all(1).any():
            raise DataError(f"{path}: there are names of columns, in numbers, among the beats; "
                            "remove that row")  # fmt: skip
        seen += len(table)
        yield table


def _numbers(form: Form, lines: list[str]) -> Array:
    """Raises ValueError."""
    if form.decimal_comma:
        lines = [line.replace(",", ".") for line in lines]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return _loaded(form, lines)
        except ValueError:
            return _loaded(form, [_cleaned(form, line) for line in lines])


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


def _counted(reason: str, before: int) -> str:
    """NumPy counts rows from 0 where it names a column, else from 1, and none passed over."""
    reason = re.sub(
        r"row (\d+), column", lambda found: f"row {int(found[1]) + 1 + before}, column", reason
    )
    return re.sub(r"row (\d+)$", lambda found: f"row {int(found[1]) + before}", reason)


def _single_column(path: Path, tables: Iterator[Array]) -> NDArray[np.float32]:
    column = np.array([number for table in tables for number in table[:, 0]], np.float32)
    if len(column) != WINDOW:
        raise DataError(f"{path}: 1 column; a beat has {WINDOW}, and one more for its class")
    return column[None]


def _classes(path: Path, labels: Array, first_row: int) -> NDArray[np.int64]:
    y = np.nan_to_num(labels, nan=-1, posinf=-1, neginf=-1).astype(np.int64)
    wrong = np.flatnonzero((y != labels) | (y < 0))
    if len(wrong):
        at = int(wrong[0])
        raise DataError(f"{path}: row {at + first_row} has the class {labels[at]:g}, which is no "
                        "number of a class")  # fmt: skip
    return y
