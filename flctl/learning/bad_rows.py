"""Rows of a table that cannot be read: left out, named and counted, unless they are many."""

import csv
import logging
import os
from collections.abc import Collection, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from flctl.errors import DataError, one_line

logger = logging.getLogger(__name__)
MOST = 0.1
"""Share of a file's rows; with more of them bad, it is refused."""
NAMED = 3


class BadRows(dict[int, str]):
    """Of one file: why, by the line of the file, from 1."""

    def left_out(self, file: Path, rows: int) -> dict[str, int]:
        """What an `Origin` says of them, which is logged too; `rows` counts the good ones as well.
        Raises DataError where too many are bad."""
        if not self:
            return {}
        named = "; ".join(
            f"line {line} {one_line(self[line], 120)}" for line in sorted(self)[:NAMED]
        )
        named += f" and {len(self) - NAMED} more" if len(self) > NAMED else ""
        if len(self) > MOST * rows:
            share = f"{len(self)} of {rows} rows cannot be read"
            raise DataError(f"{file}: {share}: {named}; correct or remove them")
        if _ends_within(file, last := max(self)):
            raise DataError(
                f"{file}: line {last}, the last one, is cut off: {one_line(self[last], 120)}; is "
                "the file still being written?"
            )
        _log(f"{file}: rows left out: {len(self)}: {named}")
        return {f"rows of {file.name} that cannot be read: {named}": len(self)}


def _ends_within(file: Path, line: int) -> bool:
    """Whether the file ends in this line, before its end."""
    with file.open("rb") as data:
        data.seek(-1, os.SEEK_END)
        if data.read() == b"\n":
            return False
        data.seek(0)
        return sum(1 for _ in data) == line


def read_rows(path: Path, numbers: Collection[str] = ()) -> list[dict[str, Any]]:
    """The rows of a CSV file whose first line names its columns. Those in `numbers` become floats.

    A row that cannot be read is left out, named in the log by its line. Raises DataError when more
    than a tenth of the rows are, or the file cannot be read at all.
    """
    bad, found = BadRows(), list[dict[str, Any]]()
    try:
        if path.exists() and not path.is_file():
            raise DataError(f"{path}: is not a regular file")
        with path.open(newline="", encoding="utf-8-sig") as file:
            names = next(csv.reader([file.readline()]), [])
            for line, row in rows_below(file, bad):
                try:
                    if len(row) != len(names):
                        raise ValueError("has more or fewer values than the first line")  # noqa: TRY301
                    named: dict[str, Any] = dict(zip(names, row, strict=True))
                    found.append(named | {n: float(named[n]) for n in numbers if n in named})
                except ValueError as error:
                    bad[line] = str(error)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise unreadable(path, error) from error
    bad.left_out(path, len(found) + len(bad))
    return found


def rows_below(
    lines: Iterable[str], bad: BadRows, delimiter: str = ","
) -> Iterator[tuple[int, list[str]]]:
    """Each with its line; the first of `lines` is line 2. No row spans lines: one with a quotation
    mark that is not closed goes into `bad`, and so does one with a field that is too long."""
    longest = csv.field_size_limit()
    for at, line in enumerate(lines, 2):
        text = line.rstrip("\r\n")
        if '"' not in text and len(text) <= longest:
            if text:
                yield at, text.split(delimiter)
            continue
        try:
            row = next(csv.reader([text + "\n"], delimiter=delimiter))
        except csv.Error as error:
            bad[at] = f"cannot be read: {error}"
            continue
        if row[-1].endswith("\n"):
            bad[at] = "has a quotation mark that is not closed"
        else:
            yield at, row


def unreadable(path: Path, error: OSError | UnicodeDecodeError | csv.Error) -> DataError:
    """What to say of a CSV file that raised `error`."""
    if isinstance(error, UnicodeDecodeError):
        form = "UTF-16" if error.object[:2] in (b"\xff\xfe", b"\xfe\xff") else "LATIN1"
        how = f"iconv -f {form} -t UTF-8 {path.name} > utf8.csv"
        return DataError(f"{path}: is not UTF-8; convert it, for instance: {how}")
    why = error.strerror if isinstance(error, OSError) else f"line 1: {one_line(error)}"
    return DataError(f"{path}: cannot be read: {why}")


@lru_cache(maxsize=64)
def _log(text: str) -> None:
    """Once, however often the file is read."""
    logger.warning("%s", text)
