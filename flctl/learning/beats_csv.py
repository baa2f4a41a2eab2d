"""Heartbeats from CSV files: one beat a row, 187 samples and, if it is known, its class.

That is the form of Kaggle's heartbeat data (mitbih_train.csv, mitbih_test.csv; Kachuee et al.
2018, https://arxiv.org/abs/1805.00794). Their beats reach from 0 to 1 and begin at the R peak,
with zeros behind them. They are moved so that the R peak is at sample 62, as everywhere else: a
model that has learnt from other files then knows them.
"""

import re
import warnings
from pathlib import Path

import numpy as np

from flctl.errors import DataError, one_line
from flctl.learning.beats import LIMIT_BYTES, R_AT, UNITS_PER_MV, WINDOW, Array, Beats

MOST_MV = 20.0
"""No heartbeat has as much, and in units of 1/200 mV none has as little."""
SOON, HIGH = 5, 0.7
"""Beats that reach that height within so many samples begin at their R peak."""
NOTE = "the beats begin at their R peak, as Kaggle's do: what came before it is not known"


def read_csv(path: Path, labelled: bool = True) -> Beats:
    """187 columns and a label, which may be absent unless `labelled`; a first row of names is
    passed over; a single column of 187 numbers is one beat. Numbers within ±20 are taken for
    millivolts, larger ones for units of 1/200 mV. Raises DataError.
    """
    if path.stem.startswith("ptbdb_"):
        raise DataError(
            f"{path}: Kaggle's ptbdb files say only whether a beat is normal, not which of the "
            "five classes it is of; leave them out"
        )
    table, first_row = _table(path)
    if table.shape == (WINDOW, 1):
        table = table.T
    if table.shape[1] not in (WINDOW, WINDOW + 1):
        raise DataError(
            f"{path}: {table.shape[1]} columns; a beat has {WINDOW}, and one more for its class"
        )
    x = np.ascontiguousarray(table[:, :WINDOW])
    y = None
    if table.shape[1] > WINDOW:
        labels = table[:, WINDOW]
        y = np.nan_to_num(labels, nan=-1, posinf=-1, neginf=-1).astype(np.int64)
        if not np.array_equal(y, labels):
            at = int(np.flatnonzero(y != labels)[0])
            raise DataError(f"{path}: row {at + first_row} has the class {labels[at]:g}, which is "
                            "no number of a class")  # fmt: skip
    elif labelled:
        raise DataError(f"{path}: {WINDOW} columns; the one for the class of each beat is missing")
    moved = _begin_at_r(x)
    if moved:
        x = _moved(x)
    if np.abs(x).max() <= MOST_MV:
        x *= UNITS_PER_MV
    return Beats(
        x=x,
        y=y,
        record=np.full(len(x), path.stem),
        split=None,
        where=str(path),
        in_time=False,
        note=NOTE if moved else "",
    )


def _begin_at_r(x: Array) -> bool:
    """Whether the beats, in mV, are laid out as Kaggle's: from 0 to 1, the R peak first."""
    if not (x.min() >= 0 and x.max() <= 1):
        return False
    return bool(np.median(x[:, :SOON].max(axis=1)) >= HIGH)


def _moved(x: Array) -> Array:
    """The same with the R peak where the other files have it, level before it and behind."""
    filled = np.maximum.accumulate((x != 0)[:, ::-1], axis=1)[:, ::-1]  # then zeros to the end
    filled[:, 0] = True  # of a beat of zeros too
    level = np.nanmedian(np.where(filled, x, np.nan), axis=1, keepdims=True)
    found = np.repeat(level, WINDOW, axis=1).astype(np.float32)
    found[:, R_AT:] = np.where(filled, x, found)[:, : WINDOW - R_AT]
    return found


_ROW = re.compile(r"row (\d+), column")


def _table(path: Path) -> tuple[Array, int]:
    """float32, shape (rows, columns), at least one of each; and the number of its first row."""
    names = False
    try:
        if path.stat().st_size > LIMIT_BYTES:
            raise DataError(f"{path}: larger than {LIMIT_BYTES >> 30} GiB; cut it into several")
        with path.open(encoding="utf-8-sig") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an empty file
            first = file.readline(1 << 20)
            if ";" in first or "\t" in first:
                raise DataError(f"{path}: the columns are not separated by commas")
            names = _is_header(first)
            file.seek(0)
            table: Array = np.loadtxt(
                file, dtype=np.float32, delimiter=",", quotechar='"', ndmin=2, skiprows=int(names)
            )
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a CSV file: it is not text") from error
    except (ValueError, MemoryError) as error:
        reason = one_line(error, 100).split(";")[0].rstrip(".")
        # NumPy counts these rows from 0, others from 1, and none that it passes over.
        reason = _ROW.sub(lambda found: f"row {int(found[1]) + 1 + names}, column", reason)
        raise DataError(f"{path}: not a CSV file of numbers: {reason}") from error
    if not table.size:
        raise DataError(f"{path}: no examples")
    return table, 1 + names


def _is_header(line: str) -> bool:
    """Whether none of its fields is a number."""
    fields = [field.strip('" ') for field in line.split(",") if field.strip()]
    return bool(fields) and not any(map(_is_number, fields))


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True
