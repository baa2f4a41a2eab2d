"""Heartbeats in memory: windows of 187 samples at 125 Hz with the R peak at sample 62.

Amplitudes are int16, 200 units = 1 mV with the baseline removed, as in the MIT-BIH
Arrhythmia Database; floats in the same unit are taken too.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flctl.learning.origin import Origin
from flctl.learning.rhythm import Rhythm

WINDOW = 187
R_AT = 62
RATE_HZ = 125
UNITS_PER_MV = 200.0
UNIT = "1/200 mV"
LIMIT_BYTES = 2 * 1024**3
"""The most that an array of a file may take in memory."""
TRAIN, LATER, UNSEEN = 0, 1, 2
"""Values of `split`: for training, later beats of the same patients, patients never seen."""

Array = NDArray[Any]


@dataclass(frozen=True)
class Beats:
    """The beats of one file, n of them, in the order of the file."""

    x: Array
    """int16 or float32, shape (n, 187)."""
    y: NDArray[np.int64] | None
    """Shape (n,), in the order of the task's classes; None if the file does not say."""
    record: NDArray[np.str_]
    """The patient or recording that each beat is of, shape (n,)."""
    split: NDArray[np.int64] | None
    """TRAIN, LATER or UNSEEN, shape (n,); None if the file does not say."""
    where: str
    in_time: bool = True
    """Whether the beats of a record follow one another as they were recorded."""
    at_s: NDArray[np.float64] | None = None
    """The R peaks in seconds from the start of the record, shape (n,), where that is known."""
    line: NDArray[np.int64] | None = None
    """The line of the file that each is, shape (n,), where it has lines."""
    rhythm: Rhythm | None = None
    """Shape (n, 3); None if the file says nothing of it."""
    note: str = ""
    """Note for the reader of the predictions."""
    facts: dict[str, str | float] = field(default_factory=dict)
    """How the file was read, as an `Origin` has it."""
    left_out: dict[str, int] = field(default_factory=dict)
    """By reason, how many of what the file holds are not among them."""

    @property
    def _known(self) -> str:
        if self.rhythm is None or not self.rhythm[:, 2].any():
            return "not known: the model gets the shape of the beats alone"
        # A record's first beat has none before it, its last one none after it.
        ends = 2 * len(np.unique(self.record))
        missing = int((self.rhythm == 0).any(axis=1).sum())
        return "known" if missing <= ends else f"not known of {missing:,} beats"

    @property
    def origin(self) -> Origin:
        left_out = {reason: count for reason, count in self.left_out.items() if count}
        return Origin(
            file=self.where,
            examples=len(self.x),
            facts={**self.facts, "RR intervals": self._known},
            left_out=left_out,
        )
