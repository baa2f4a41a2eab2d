"""Examples that a model is to judge."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from flctl.errors import DataError
from flctl.learning.examples import Examples
from flctl.learning.origin import Origin


@dataclass(frozen=True)
class Cases:
    """Examples to be judged by a model, n of them: what a task's `cases` returns.

    Raises DataError for what is none.
    """

    examples: Examples
    labelled: bool = True
    """Whether their `y` is known; never so of Examples without `y`."""
    at_s: NDArray[np.float64] | None = None
    """When each was, in seconds from the start of its group; NaN where it is not known."""
    note: str = ""
    """What a person should know about how they came to be."""
    origins: Sequence[Origin] = ()
    """What was read of each file, and what was left out."""
    line: NDArray[np.int64] | None = None
    """The line of its file, from 1, that each is of or ends at."""

    def __post_init__(self) -> None:
        if not isinstance(self.examples, Examples):
            kind = type(self.examples).__name__
            raise DataError(f"Cases of an object of type {kind}, not of flctl.Examples")
        object.__setattr__(self, "labelled", bool(self.labelled and self.examples.labelled))
        for name, kind in (("at_s", "f8"), ("line", "i8")):
            if (given := getattr(self, name)) is None:
                continue
            values = np.asarray(given, kind)
            if values.shape != (n := len(self.examples),):
                where = self.examples.where
                raise DataError(f"{where}: {n} cases, but {name} of shape {[*values.shape]}")
            object.__setattr__(self, name, values)

    @property
    def readable(self) -> "Cases":
        """Without those that could not be read when they were judged."""
        broken = self.examples.broken
        if not broken:
            return self
        rows = np.array([at for at in range(len(self.examples)) if at not in broken])
        at_s = None if self.at_s is None else self.at_s[rows]
        line = None if self.line is None else self.line[rows]
        first, why = min(broken.items())
        note = f"left out: {len(broken)} that cannot be read; {self.examples.name(first)}: {why}"
        note = "; ".join(filter(None, (self.note, note)))
        return replace(self, examples=self.examples.select(rows), at_s=at_s, line=line, note=note)
