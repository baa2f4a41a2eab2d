"""What a model predicts for each example of a file, beside what the file says."""

import math
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from flctl.learning.examples import Cases
    from flctl.learning.task import Task

TOP = 3


class Predictions(NamedTuple):
    task: "Task"
    cases: "Cases"
    probabilities: "NDArray[np.float32]"
    """Of each class, shape (n, classes)."""

    def __len__(self) -> int:
        return len(self.probabilities)

    def top(self, at: int) -> list[tuple[str, float]]:
        """The most probable classes of one example, with their probabilities."""
        order = (-self.probabilities[at]).argsort(kind="stable")[:TOP]
        return [(self.task.classes[c], float(self.probabilities[at, c])) for c in order]

    def true(self, at: int) -> str | None:
        """The class that the file says, if it does."""
        return self.task.classes[self.cases.examples.y[at]] if self.cases.labelled else None

    def record(self, at: int) -> str | None:
        group = self.cases.examples.group
        return None if group is None else str(group[at])

    def at_s(self, at: int) -> float | None:
        """When it was, in seconds from the start of its record."""
        known = self.cases.at_s is not None and not math.isnan(self.cases.at_s[at])
        return float(self.cases.at_s[at]) if self.cases.at_s is not None and known else None

    def full(self, name: str) -> str:
        """A class with what it is called in full."""
        return f"{name} {self.names[name]}" if name in self.names else name

    @property
    def names(self) -> dict[str, str]:
        """The full names of the classes, where the task has any."""
        return dict(zip(self.task.classes, self.task.class_names, strict=False))

    @property
    def best(self) -> list[int]:
        """The most probable class of each example."""
        found: list[int] = self.probabilities.argmax(axis=1).tolist()
        return found

    @property
    def counts(self) -> dict[str, int]:
        """How many examples are said to be of each class."""
        counts = Counter(self.best)
        return {name: counts[at] for at, name in enumerate(self.task.classes)}

    @property
    def right(self) -> int | None:
        """How many are of the class that the file says, if it does."""
        if not self.cases.labelled:
            return None
        true = self.cases.examples.y.tolist()
        return sum(int(said == told) for said, told in zip(self.best, true, strict=True))

    def plain(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return {
            "examples": len(self),
            "class_names": self.names,
            "counts": self.counts,
            "right": self.right,
            "note": self.cases.note,
            "read": list(self.cases.origins),
            "predictions": [self._plain(at) for at in range(len(self))],
        }

    def _plain(self, at: int) -> dict[str, Any]:
        top = [{"class": name, "probability": p} for name, p in self.top(at)]
        return {
            "number": at + 1,
            "record": self.record(at),
            "at_s": self.at_s(at),
            "true": self.true(at),
            **top[0],
            "top": top,
        }
