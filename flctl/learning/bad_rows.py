"""Rows of a table that cannot be read: left out, named and counted, unless they are many."""

import csv
import logging
import os
from collections.abc import Collection
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
        with path.open(newline="", encoding="utf-8-sig") as file:
            for row in (rows := csv.DictReader(file)):
                try:
                    if None in row or None in row.values():
                        raise ValueError("has more or fewer values than the first line")  # noqa: TRY301
                    found.append(row | {name: float(row[name]) for name in numbers if name in row})
                except ValueError as error:
                    bad[rows.line_num] = str(error)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = error.strerror if isinstance(error, OSError) else one_line(error)
        raise DataError(f"{path}: cannot be read: {why}") from error
    bad.left_out(path, len(found) + len(bad))
    return found


@lru_cache(maxsize=64)
def _log(text: str) -> None:
    """Once, however often the file is read."""
    logger.warning("%s", text)
