"""Rows of a table that cannot be read: left out, named and counted, unless they are many."""

import csv
import io
import logging
import os
from collections.abc import Collection, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from flctl.errors import DataError, one_line
from flctl.formats import counted

logger = logging.getLogger(__name__)
MOST = 0.1
"""Share of a file's rows; with more of them bad, it is refused."""
NAMED = 3
BYTE_ORDERS = (b"\xff\xfe", b"\xfe\xff")
MARKLESS = {b"\1\0\1\0": "LE", b"\0\1\0\1": "BE"}
"""UTF-16 by which of the first four bytes are not zero."""


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
        with open_text(path) as file:
            names = next(csv.reader([file.readline()]), [])
        for line, row in rows_below(path, bad, len(names)):
            try:
                named: dict[str, Any] = dict(zip(names, row, strict=True))
                found.append(named | {n: float(named[n]) for n in numbers if n in named})
            except ValueError as error:
                bad[line] = str(error)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise unreadable(path, error) from error
    bad.left_out(path, len(found) + len(bad))
    return found


def rows_below(
    path: Path, bad: BadRows, width: int, delimiter: str = ","
) -> Iterator[tuple[int, list[str]]]:
    """Rows of a CSV file below its first line that have `width` values, each with its line; others
    go into `bad`. None spans lines: a quotation mark that is not closed costs its own row."""
    longest = csv.field_size_limit()
    with open_text(path) as file:
        for at, line in enumerate(file, 1):
            text = (line.replace(",", ".") if delimiter == ";" else line).rstrip("\r\n")
            if at == 1 or not text:
                continue
            row = text.split(delimiter)
            if '"' in text or len(text) > longest:  # csv.reader is slower
                try:
                    row = next(csv.reader([text + "\n"], delimiter=delimiter))
                    if row[-1].endswith("\n"):
                        raise csv.Error("quotation mark that is not closed")  # noqa: TRY301
                except csv.Error as error:
                    bad[at] = f"has a {error}"
                    continue
            if len(row) == width:
                yield at, row
            else:
                bad[at] = f"has {counted(len(row), 'value')}, the first line names {width}"


def open_text(path: Path, newline: str | None = "") -> io.TextIOWrapper:
    """A CSV file in UTF-8. Raises OSError, DataError for one in UTF-16."""
    file = path.open("rb")
    start = file.peek(4)[:4]
    form = "" if start[:2] in BYTE_ORDERS else MARKLESS.get(bytes(map(bool, start)))
    if form is None:
        return io.TextIOWrapper(file, encoding="utf-8-sig", newline=newline)
    file.close()
    raise _not_utf8(path, f"UTF-16{form}")


def _not_utf8(path: Path, form: str) -> DataError:
    return DataError(f"{path}: is not UTF-8; convert it: iconv -f {form} -t UTF-8 {path.name}")


def unreadable(path: Path, error: OSError | UnicodeDecodeError | csv.Error) -> DataError:
    """What to say of a CSV file that raised `error`."""
    if isinstance(error, UnicodeDecodeError):
        return _not_utf8(path, "LATIN1")
    why = error.strerror if isinstance(error, OSError) else f"line 1: {one_line(error)}"
    return DataError(f"{path}: cannot be read: {why}")


@lru_cache(maxsize=64)
def _log(text: str) -> None:
    """Once, however often the file is read."""
    logger.warning("%s", text)
