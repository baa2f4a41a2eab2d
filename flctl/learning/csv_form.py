"""What the first lines of a CSV file say of all others: delimiter, decimal mark, names, columns."""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from flctl.learning.beats import WINDOW

LABELS = frozenset(
    {"class", "label", "labels", "target", "y", "category", "type", "annotation", "symbol"}
)
INDEX = re.compile(r"^(unnamed(: ?\d+)?(_level_\d+)?(\.\d+)?|index|row|row_?names|id|no\.?|#|)$")
MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "-", "?", "#n/a"})
MANY = 100
"""Numbers that count up evenly are no beat."""
MANGLED = re.compile(r"^-?\d+\.\d+(e[+-]?\d+)?\.\d+$")
"""pandas' name of the second of two columns that are both called 0.5."""


@dataclass(frozen=True)
class Form:
    delimiter: str
    """A blank stands for any white space."""
    decimal_comma: bool
    names: bool
    """Whether the first line is no beat."""
    lost: bool
    """It was one, before a program took it for names."""
    columns: int
    samples: tuple[int, ...]
    """Columns of the beat, in their order."""
    label: int | None

    def fields(self, line: str) -> list[str]:
        return split(line, self.delimiter)


def form_of(lines: Sequence[str]) -> Form:
    """Of the first few lines of a file."""
    delimiter = next((d for d in "\t;," if any(d in line for line in lines[:1])), " ")
    if delimiter == " " and len(lines[0].split()) < 2:
        delimiter = ","
    comma = delimiter != "," and any("," in line for line in lines[1:2] or lines)
    rows = [split(line.replace(",", ".") if comma else line, delimiter) for line in lines]
    lost = sum(bool(MANGLED.match(field)) for field in rows[0]) > 10
    names = lost or _is_header(rows[0])
    data = rows[1:] if names else rows
    columns = len(data[0]) if data else len(rows[0])
    shift = columns - len(rows[0]) if names else 0  # R leaves out the name of its row names
    called = [""] * shift + rows[0] if names and not lost else []
    dropped = {0} if _counts_up([row[0] for row in data]) else set()
    dropped |= {at for at, name in enumerate(called) if INDEX.match(name.casefold())}
    if data and columns - len(dropped) > WINDOW and all(row[-1] == "" for row in data):
        dropped.add(columns - 1)  # each line ends with a delimiter
    label = next((at for at, name in enumerate(called) if name.casefold() in LABELS), None)
    left = [at for at in range(columns) if at not in dropped and at != label]
    if label is None and len(left) == WINDOW + 1:
        label = left.pop()
    return Form(delimiter, comma, names, lost, columns, tuple(left), label)


def split(line: str, delimiter: str) -> list[str]:
    fields = line.split() if delimiter == " " else line.rstrip("\r\n").split(delimiter)
    return [field.strip("\"' \t") for field in fields]


def number(field: str) -> float | None:
    try:
        return float(field)
    except ValueError:
        return None


def _is_header(fields: Sequence[str]) -> bool:
    """Names; or numbers that count up, as pandas names columns without names."""
    numbers = [found for field in fields if (found := number(field)) is not None]
    told = [field for field in fields if field]
    if len(numbers) > MANY:
        steps = [later - earlier for earlier, later in itertools.pairwise(numbers)]
        if min(steps) > 0 and max(steps) - min(steps) <= 1e-6 * max(map(abs, numbers)):
            return True
    if any(field.casefold() in LABELS for field in told):
        return True
    words = [field for field in told if field.casefold() not in MISSING and number(field) is None]
    return len(words) > len(numbers)


def _counts_up(fields: Sequence[str]) -> bool:
    numbers = [number(field) for field in fields]
    if len(numbers) < 3 or None in numbers:
        return False
    return all(
        later == earlier + 1  # type: ignore[operator]
        for earlier, later in itertools.pairwise(numbers)
    )
