"""The form of a CSV file, from its first lines: delimiter, decimal mark, names, columns."""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from flctl.learning.beats import WINDOW
from flctl.learning.rhythm import ARRAYS

LABELS = frozenset(
    {"class", "classes", "label", "labels", "target", "y", "category", "type", "annotation",
     "symbol", "beat", "beattype", "beatclass", "classid", "classlabel", "aami"}
)  # fmt: skip
NUMBERED = re.compile(r"(.*?)[\W_]*(\d+(?:\.\d+)?)\W*")
"""s12, sample_12, t=0.096, x[12]."""
INDEX = re.compile(r"^(unnamed(: ?\d+)?(_level_\d+)?(\.\d+)?|index|row|row_?names|id|no\.?|#|)$")
MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "-", "?", "#n/a"})
MANY = 100
"""From this many on, numbers that count up evenly, in any order, are not a beat."""
MANGLED = re.compile(r"^-?\d+\.\d+(e[+-]?\d+)?\.\d+$")
"""pandas' name of the second of two columns that are both called 0.5."""


DECIMAL = re.compile(r"-?\d+,\d+")
THOUSANDS = re.compile(r"-?[1-9]\d{0,2}([.,]\d{3})+")


@dataclass(frozen=True)
class Form:
    delimiter: str
    """A blank stands for any white space."""
    decimal_comma: bool
    names: bool
    """Whether the first line is no beat."""
    lost: bool
    """The first line was a beat, until a program took it for column names."""
    columns: int
    samples: tuple[int, ...]
    """Columns of the beat, in their order."""
    label: int | None
    rival: int | None
    """The column that may be the class as well, where no name says which one is."""
    rhythm: tuple[int, ...]
    """Columns of the intervals before and after the beat, and the usual one if it is there; none
    where one of the first two is missing."""
    passed_over: tuple[str, ...]
    """Names of columns that are none of these."""

    def fields(self, line: str) -> list[str]:
        return split(line, self.delimiter)


def form_of(lines: Sequence[str]) -> Form:
    """Form of a file, from its first few lines."""
    delimiter = next((d for d in "\t;|," if any(d in line for line in lines[:1])), " ")
    if len(lines) > 2 and all(DECIMAL.fullmatch(line.strip()) for line in lines[1:]):
        delimiter = ";"  # one column of decimal commas
    if delimiter == " " and len(lines[0].split()) < 2:
        delimiter = ","
    comma = delimiter != "," and any("," in line for line in lines[1:2] or lines)
    rows = [split(line.replace(",", ".") if comma else line, delimiter) for line in lines]
    lost = sum(bool(MANGLED.match(field)) for field in rows[0]) > 10
    names = lost or _is_header(rows[0])
    data = rows[1:] if names else rows
    columns = len(data[0]) if data else len(rows[0])
    counted = _counts_up([row[0] for row in data])
    trailing = bool(data) and columns - counted > WINDOW and all(row[-1] == "" for row in data)
    if names and len(rows[0]) == columns and rows[0][-1]:
        trailing = False
    unnamed = [""] * (columns - len(rows[0])) if names else []
    # R leaves out the name of its row names.
    called = [] if lost or not names else rows[0] + unnamed if trailing else unnamed + rows[0]
    label = next((at for at, name in enumerate(called) if _plain(name) in LABELS), None)
    small = [name.casefold() for name in called]
    known = {*ARRAYS[:2]} <= {*small}
    rhythm = tuple(small.index(name) for name in ARRAYS if known and name in small)
    series = _series(called, label)
    left = series or [at for at in range(columns) if at not in (label, *rhythm)]
    dropped = {at for at, name in enumerate(called) if INDEX.match(name.casefold())}
    dropped = dropped if len(dropped) < MANY else set()
    dropped |= {0} if counted and 0 not in series else set()
    dropped |= {columns - 1} if trailing else set()  # each line ends with a delimiter
    if not series:
        left = [at for at in left if at not in dropped]
    alike = not called or len(series) == len(left) or len(set(called)) == 1
    rival = None
    if label is None and len(left) == WINDOW + 1 and alike:
        label, rival = left.pop(), left[0]
    elif not called and counted and columns == WINDOW + 1:
        rival = 0
    others = set(range(columns)) - {*left, *dropped, *rhythm, label}
    over = tuple(called[at] for at in sorted(others)) if called else ()
    return Form(delimiter, comma, names, lost, columns, tuple(left), label, rival, rhythm, over)


def thousands(form: Form, lines: Sequence[str]) -> str:
    """A number that has a mark of thousands, by all that have a mark; else nothing."""
    fields = [field for line in lines[form.names :] for field in form.fields(line)]
    marked = [field for field in fields if "." in field or "," in field]
    whole = all(field.endswith("000") for field in marked)  # of numbers with three decimals
    if form.columns < MANY or whole or not all(map(THOUSANDS.fullmatch, marked)):
        return ""
    return marked[0]


def _series(called: Sequence[str], label: int | None) -> list[int]:
    """Columns whose names are one word and a number, in the order of the numbers; most have to be
    such."""
    found: dict[str, list[tuple[float, int]]] = {}
    for at, name in enumerate(called):
        if name and at != label:
            numbered = NUMBERED.fullmatch(name)
            word, value = (numbered[1], float(numbered[2])) if numbered else (name, -1.0)
            if (plain := number(name)) is not None:
                word, value = "", plain
            found.setdefault(word.casefold(), []).append((value, at))
    most = max(found.values(), key=len, default=[])
    distinct = len({value for value, _ in most}) == len(most) > MANY
    return [at for _, at in sorted(most)] if distinct else []


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name.casefold())


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
        steps = [later - earlier for earlier, later in itertools.pairwise(sorted(numbers))]
        if min(steps) > 0 and max(steps) - min(steps) <= 1e-6 * max(map(abs, numbers)):
            return True
    if any(_plain(field) in LABELS for field in told):
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
