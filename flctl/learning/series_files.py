"""Tables of sensors as they lie in CSV and Parquet files: columns of numbers and texts."""

import csv
import math
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flctl.errors import DataError, NeedsExtra, OtherData, one_line
from flctl.files import absent
from flctl.learning.bad_rows import BadRows, open_text, rows_below, unreadable
from flctl.learning.csv_form import MISSING
from flctl.learning.series_args import SeriesArgs

Floats = NDArray[np.float64]
Rows = Iterator[tuple[int, Sequence[Any]]]
"""Each with its line in the file, from 1."""
SUFFIXES = (".csv", ".parquet")
TIMES = ("time", "timestamp", "datetime", "date", "ts", "t")
"""Names of a column of time, where the run does not say another one."""
LOOKED_AT, NUMBERS = 1000, 0.9
"""Rows that decide whether a column is one of numbers, and the share of them that has to be."""
MILLISECONDS = 1e11
"""Seconds since 1970 are fewer for the next 3,000 years."""
LARGEST = 1e30
"""Larger numbers stand for a missing value, as in NetCDF; their squares would overflow."""
MOST_VALUES = 2**27
"""Values of a Parquet file, of which a few bytes can unpack to any number."""


@dataclass(frozen=True)
class SensorTable:
    """One file, without the rows that cannot be read."""

    file: Path
    columns: tuple[str, ...]
    time: Floats
    """Seconds."""
    inputs: Floats
    """[rows, columns]; NaN where a value is missing."""
    target: list[str] | None
    """As the file writes it; None: it does not have that column."""
    device: list[str] | None
    line: NDArray[np.int64]
    """Of each row, in the file."""
    left_out: Mapping[str, int]
    """As an `Origin` has it."""


def files_of(path: Path) -> list[Path]:
    """Sorted by name. Raises DataError."""
    if not path.exists():
        raise DataError(f"{path}: {absent(path)}")
    if not path.is_dir():
        if not path.is_file():
            raise DataError(f"{path}: is not a regular file")
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
        bad = BadRows()
        opened = _of_parquet(file) if file.suffix.lower() == ".parquet" else _of_csv(file, bad)
        return _read(file, args, bad, *opened)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise unreadable(file, error) from error


def _columns(
    file: Path, args: SeriesArgs, names: Sequence[str], rows: Sequence[Sequence[Any]]
) -> tuple[str, tuple[str, ...]]:
    """The column of time, and the inputs, by the first `rows`. Raises DataError."""
    time = args.time if args.time in names else None
    if args.time == "time" and time is None:
        time = next((name for name in names if name.casefold() in TIMES), None)
    few = one_line(", ".join(names))
    if time is None:
        text = f"no column '{args.time}' with the time of each row (it has {few})"
        raise (OtherData if args.time == "time" else DataError)(f"{file}: {text}")
    others = [each for each in enumerate(names) if each[1] not in (time, args.device, args.target)]
    chosen = args.columns or tuple(n for at, n in others if _is_number([row[at] for row in rows]))
    named = () if args.device == "device" else (args.device,)
    if missing := [name for name in (*chosen, *named) if name not in names]:
        raise DataError(f"{file}: no column '{missing[0]}'; it has {few}")
    if not chosen:
        what = (
            "column of numbers besides the time" if rows else "rows below the names of its columns"
        )
        raise OtherData(f"{file}: no {what}")
    return time, chosen


def _read(file: Path, args: SeriesArgs, bad: BadRows, names: list[str], rows: Rows) -> SensorTable:
    first = list(islice(rows, LOOKED_AT))
    whole = [row for _, row in first]
    if not whole:
        bad.left_out(file, len(bad))
    known = {name: at for at, name in enumerate(names)}
    time, chosen = _columns(file, args, names, whole)
    device, target = known.get(args.device), known.get(args.target)
    plain = _is_number([row[known[time]] for row in whole], share=0.5)
    as_number: list[tuple[int, str, Callable[[Any], float], str]]
    as_number = [(known[time], time, float if plain else _date, "no time")]
    as_number += [(known[name], name, float, "no number") for name in chosen]
    if args.learn == "number" and target is not None:
        as_number.append((target, args.target, float, "no number"))
    values, lines = array("d"), array("q")
    texts: dict[int, list[str]] = {at: [] for at in (device, target) if at is not None}
    same: dict[str, str] = {}
    for line, row in chain(first, rows):
        try:
            values.extend([_converted(row[at], n, read, no) for at, n, read, no in as_number])
        except ValueError as error:
            bad[line] = str(error)
            continue
        lines.append(line)
        for at, column in texts.items():
            text = _text(row[at])
            column.append(same.setdefault(text, text))
    found = np.frombuffer(values, np.float64).reshape(-1, len(as_number))
    found[~(np.abs(found) < LARGEST)] = math.nan
    if args.learn == "number" and target is not None:
        known_at = np.isfinite(found[:, -1]).tolist()
        texts[target] = [text * there for text, there in zip(texts[target], known_at, strict=True)]
    seconds = found[:, 0]
    usual = seconds[np.isfinite(seconds)]
    return SensorTable(
        file=file,
        columns=chosen,
        time=seconds / 1000 if plain and len(usual) and usual.min() > MILLISECONDS else seconds,
        inputs=found[:, 1 : 1 + len(chosen)],
        target=None if target is None else texts[target],
        device=None if device is None else texts[device],
        line=np.frombuffer(lines, np.int64),
        left_out=bad.left_out(file, len(lines) + len(bad)),
    )


def _converted(value: Any, name: str, read: Callable[[Any], float], wrong: str) -> float:
    """NaN for what is missing. Raises ValueError."""
    try:
        return read(value)
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        if _is_missing(value):
            return math.nan
        raise ValueError(f"has {str(value)!r:.60} in column '{name}', which is {wrong}") from error


def _date(value: Any) -> float:
    when = value if isinstance(value, datetime) else datetime.fromisoformat(str(value).strip())
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


def _of_csv(file: Path, bad: BadRows) -> tuple[list[str], Rows]:
    with open_text(file) as lines:
        head = lines.readline()
    delimiter = max(",;\t", key=head.count)
    names = [name.strip() for name in next(csv.reader([head], delimiter=delimiter), [])]
    if len(set(names)) < len(names) or len(names) < 2 or _is_number(names[:1]):
        raise OtherData(f"{file}: its first line does not name the columns, each once")
    return names, rows_below(file, bad, len(names), delimiter)  # ";": with a comma in numbers


def _of_parquet(file: Path) -> tuple[list[str], Rows]:
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
        columns = [table.column(name).to_pylist() for name in names]
        return names, enumerate(zip(*columns, strict=True), start=1)
    except (ArrowException, ValueError, OverflowError) as error:
        raise DataError(f"{file}: not a Parquet file: {one_line(error)}") from error


def _is_number(values: Sequence[Any], share: float = NUMBERS) -> bool:
    """Whether more than a share of those that are known are."""
    known = [value for value in values if not _is_missing(value)]
    return sum(map(_reads, known)) > share * len(known)


def _reads(value: Any) -> bool:
    try:
        float(value)
    except (ValueError, TypeError, OverflowError):
        return False
    return True


def _is_missing(value: Any) -> bool:
    if isinstance(value, str):
        return value.strip().casefold() in MISSING or not value.strip()
    return value is None or value != value  # noqa: PLR0124  # NaN


def _text(value: Any) -> str:
    return "" if _is_missing(value) else str(value).strip()
