"""What was read of a file and what was left out, for people; and how they may ask to have it read.

Nothing here needs torch, so that the command line knows the flags.
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec
from msgspec import Struct

from flctl.errors import UsageError
from flctl.explaining import explained_key
from flctl.settings import Annotator, Lead, RAt, RunSettings


class ReadAs(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """How the owner of data wants them to be read; None: as they say themselves.

    Which of these a task knows is in its `options`.
    """

    lead: Lead | None = None
    """Name or number (from 1) of the signal of a record."""
    annotator: Annotator | None = None
    """Suffix of the file that holds a record's annotations."""
    r_at: RAt | None = None
    """Sample of each row, from 0, that the R peak stands at."""

    @property
    def given(self) -> dict[str, str | int]:
        """Those that are not None."""
        fields = {name: getattr(self, name) for name in self.__struct_fields__}
        return {name: value for name, value in fields.items() if value is not None}


AS_IT_IS = ReadAs()
VARIABLES = {"lead": "FLCTL_LEAD", "annotator": "FLCTL_ANNOTATOR", "r_at": "FLCTL_R_AT"}


def read_as_of(given: Mapping[str, str | int | None], names: Mapping[str, str]) -> ReadAs:
    """The user's way to read data; `names` are the names of the options. Raises UsageError."""
    for key, value in given.items():
        if value is None or value == "":
            continue
        try:
            msgspec.convert({key: value}, ReadAs, strict=False)
        except msgspec.ValidationError as error:
            reason = explained_key(error, ReadAs, {}).removeprefix(f"{key}: ")
            raise UsageError(f"{names[key]} {value}: {reason}") from error
    plain = {key: value for key, value in given.items() if value not in (None, "")}
    return msgspec.convert(plain, ReadAs, strict=False)


def of_settings(settings: RunSettings) -> ReadAs:
    return ReadAs(lead=settings.lead, annotator=settings.annotator, r_at=settings.r_at)


def from_environment() -> ReadAs:
    """For all processes of an agent, and a run that begins. Raises UsageError."""
    return read_as_of({key: os.environ.get(name) for key, name in VARIABLES.items()}, VARIABLES)


def check_known(given: ReadAs, known: Sequence[str], task: str) -> None:
    """Raises UsageError for an option that the task does not have."""
    for name in given.given:
        if name not in known:
            raise UsageError(f"--{name.replace('_', '-')}: task '{task}' has no such option")


class Origin(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Origin of one file, or of one record of several files."""

    file: str
    examples: int = 0
    facts: dict[str, str | float] = {}
    """How it was read: {"lead": "II", "rate_hz": 257}."""
    left_out: dict[str, int] = {}
    """By reason, how many examples, annotations or the like were not used."""
    problem: str = ""
    """Why nothing of it was used."""


def summary(origins: Sequence[Origin]) -> list[str]:
    """A few lines for all files together."""
    used = [origin for origin in origins if not origin.problem]
    facts: dict[str, Counter[str]] = {}
    left_out: Counter[str] = Counter()
    for origin in used:
        for name, value in origin.facts.items():
            shown = f"{value:g}" if isinstance(value, float | int) else value
            facts.setdefault(name.replace("_hz", ", Hz"), Counter())[shown] += 1
        left_out.update(origin.left_out)
    lines = [f"{name}: {_values(values, len(used))}" for name, values in facts.items()]
    lines += [f"left out: {reason} ({count:,})" for reason, count in left_out.items()]
    problems = [origin.problem for origin in origins if origin.problem]
    lines += [f"left out: {problem}" for problem in problems[:MOST_PROBLEMS]]
    if len(problems) > MOST_PROBLEMS:
        lines.append(f"left out: {len(problems) - MOST_PROBLEMS:,} more files; --json has them all")
    return lines


MOST_PROBLEMS = 5


def _values(values: Mapping[str, int], files: int) -> str:
    """The most frequent ones, with how many files have each where they differ."""
    if values == {next(iter(values)): files}:
        return next(iter(values))
    shown = Counter(values).most_common(6)
    more = f" and {len(values) - 6} others" if len(values) > 6 else ""
    return ", ".join(f"{value} ({n:,} of {files:,})" for value, n in shown) + more
