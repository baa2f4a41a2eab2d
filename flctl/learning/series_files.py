"""Tables of sensors as they lie in CSV and Parquet files: columns of numbers and texts."""

import csv
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flctl.errors import DataError, NeedsExtra, OtherData, one_line
from flctl.files import absent
from flctl.learning.csv_form import MISSING
from flctl.learning.series_args import SeriesArgs

Floats = NDArray[np.float64]
SUFFIXES = (".csv", ".parquet")
TIMES = ("time", "timestamp", "datetime", "date", "ts", "t")
"""Names of a column of time, where the run does not say another one."""
LOOKED_AT = 1000
"""Rows that decide whether a column is one of numbers."""
MILLISECONDS = 1e11
"""Seconds since 1970 are fewer for the next 3,000 years."""
LARGEST = 1e30
"""Larger numbers stand for a missing value, as in NetCDF; their squares would overflow."""
MOST_VALUES = 2**27
"""Values of a Parquet file, of which a few bytes can unpack to any number."""


@dataclass(frozen=True)
class SensorTable:
    """One file; each column has a value for each row."""

    file: Path
    time: Floats
    """Seconds."""
    inputs: dict[str, Floats]
    """Columns of numbers; NaN where a value is missing."""
    target: list[str] | None
    """As the file writes it; None: it does not have that column."""
    device: list[str] | None


def files_of(path: Path) -> list[Path]:
    """Sorted by name. Raises DataError."""
    if not path.exists():
        raise DataError(f"{path}: {absent(path)}")
    if path.is_file():
        if path.suffix.lower() not in SUFFIXES:
            raise OtherData(f"{path}: a table of sensors is a .csv or .parquet file")
        return [path]
    found = sorted(each for each in path.iterdir() if each.suffix.lower() in SUFFIXES)
    found = [each for each in found if each.is_file() and each.name[0] != "."]
    if not found:
        raise OtherData(f"{path}: holds no .csv or .parquet file")
    return found


def read_table(file: Path, args: SeriesArgs) -> SensorTable:
    """Raises DataError, OtherData for a table without a column of time."""
    try:
        columns = _of_parquet(file) if file.suffix.lower() == ".parquet" else _of_csv(file)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = error.strerror if isinstance(error, OSError) else one_line(error)
        raise DataError(f"{file}: cannot be read: {why}") from error
    time = _named(args.time, columns) or (
        next((name for name in columns if name.casefold() in TIMES), None)
        if args.time == "time"
        else None
    )
    if time is None:
        have = ", ".join(list(columns)[:8])
        text = f"no column '{args.time}' with the time of each row (it has {have:.200})"
        raise (OtherData if args.time == "time" else DataError)(f"{file}: {text}")
    device, target = _named(args.device, columns), _named(args.target, columns)
    chosen = args.columns or tuple(
        name
        for name, values in columns.items()
        if name not in (time, device, target) and _is_number(values)
    )
    if missing := [name for name in chosen if name not in columns]:
        raise DataError(f"{file}: no column '{missing[0]}'; it has {', '.join(columns):.200}")
    if not chosen:
        raise OtherData(f"{file}: no column of numbers beside the time")
    return SensorTable(
        file=file,
        time=_seconds(file, time, columns[time]),
        inputs={name: numbers(file, name, columns[name]) for name in chosen},
        target=None if target is None else [_text(value) for value in columns[target]],
        device=None if device is None else [_text(value) for value in columns[device]],
    )


def numbers(file: Path, name: str, values: Sequence[Any]) -> Floats:
    """NaN for what is missing. Raises DataError with the row."""
    return _converted(file, name, values, float, "no number")


def _seconds(file: Path, name: str, values: Sequence[Any]) -> Floats:
    first = next((value for value in values if not _is_missing(value)), "")
    plain = isinstance(first, int | float) or _is_number([first])
    time = _converted(file, name, values, float if plain else _date, "no time")
    return time / 1000 if plain and len(time) and np.nanmin(time) > MILLISECONDS else time


def _date(value: Any) -> float:
    when = value if isinstance(value, datetime) else datetime.fromisoformat(str(value).strip())
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


def _converted(
    file: Path, name: str, values: Sequence[Any], read: Callable[[Any], float], wrong: str
) -> Floats:
    found = np.full(len(values), math.nan)
    for row, value in enumerate(values):
        if _is_missing(value):
            continue
        try:
            found[row] = read(value)
        except (ValueError, TypeError, AttributeError, OverflowError) as error:
            text = f"row {row + 1} has {str(value)!r:.60} in column '{name}', which is {wrong}"
            raise DataError(f"{file}: {text}") from error
    found[~(np.abs(found) < LARGEST)] = math.nan
    return found


def _of_csv(file: Path) -> dict[str, list[Any]]:
    with file.open(newline="", encoding="utf-8-sig") as lines:
        head = lines.readline()
        delimiter = max(",;\t", key=head.count)
        names = [name.strip() for name in next(csv.reader([head], delimiter=delimiter), [])]
        if len(set(names)) < len(names) or len(names) < 2 or _is_number(names[:1]):
            raise OtherData(f"{file}: its first line does not name the columns, each once")
        rows: Iterable[list[str]] = csv.reader(lines, delimiter=delimiter)
        columns: list[list[str]] = [[] for _ in names]
        for number, row in enumerate(rows, start=1):
            if not row:
                continue
            if len(row) != len(names):
                text = f"row {number} has {len(row)} values, the first line names {len(names)}"
                raise DataError(f"{file}: {text}")
            for column, value in zip(columns, row, strict=True):
                column.append(value)
    if delimiter == ";":  # and a comma in numbers
        columns = [[value.replace(",", ".") for value in column] for column in columns]
    return dict(zip(names, columns, strict=True))


def _of_parquet(file: Path) -> dict[str, list[Any]]:
    try:
        from pyarrow import ArrowException, parquet
    except ModuleNotFoundError as error:
        raise NeedsExtra(f"{file}: Parquet needs pyarrow: pip install 'flctl[parquet]'") from error
    try:
        with parquet.ParquetFile(file) as opened:
            about = opened.metadata
            if about.num_rows * about.num_columns > MOST_VALUES:
                raise DataError(f"{file}: more than {MOST_VALUES:,} values; split it")
            table = opened.read()
        names = table.column_names
        if len(set(names)) < len(names):
            raise OtherData(f"{file}: two of its columns have the same name")
        return {name: table.column(name).to_pylist() for name in names}
    except (ArrowException, ValueError, OverflowError) as error:
        raise DataError(f"{file}: not a Parquet file: {one_line(error)}") from error


def _named(name: str, columns: dict[str, list[Any]]) -> str | None:
    return name if name in columns else None


def _is_number(values: Sequence[Any]) -> bool:
    known = [value for value in values[:LOOKED_AT] if not _is_missing(value)]
    try:
        return bool([float(value) for value in known])
    except (ValueError, TypeError, OverflowError):
        return False


def _is_missing(value: Any) -> bool:
    if isinstance(value, str):
        return value.strip().casefold() in MISSING or not value.strip()
    return value is None or value != value  # noqa: PLR0124  # NaN


def _text(value: Any) -> str:
    return "" if _is_missing(value) else str(value).strip()
