"""What a model predicts for each example of a file, with the label in the file."""

import math
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from flctl.formats import figure, number
from flctl.learning.classification import MultiLabel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flctl.learning.cases import Cases
    from flctl.learning.task import Task

TOP = 3


@dataclass(frozen=True)
class Predictions:
    """Numbers: one of each example, or several."""

    task: "Task"
    cases: "Cases"
    said: "NDArray[Any]"
    """By the task's `predicted`, shape (n, …)."""
    threshold: float | None = None
    """Above it a score is flagged, where one is known."""

    def __len__(self) -> int:
        return len(self.said)

    @property
    def heads(self) -> list[str]:
        """Heads of the columns that `row` fills; a leading ">" marks numbers."""
        return [f">prediction, {self.task.unit}" if self.task.unit else ">prediction"]

    def row(self, at: int) -> list[str]:
        return ["  ".join(number(float(each)) for each in np.ravel(self.said[at])[:TOP])]

    def kind(self, at: int) -> str:  # noqa: ARG002
        """The predicted kind, where there are few; empty if there is nothing to count."""
        return ""

    def headline(self, at: int) -> str:
        """The prediction in a few characters."""
        return f"{self.row(at)[0]} {self.task.unit}".rstrip()

    def true(self, at: int) -> str | None:
        """What the file says, if it does."""
        numbers = np.ravel(self.cases.examples.targets[at])[:TOP]
        known = self.cases.labelled
        return "  ".join(number(float(each)) for each in numbers) if known else None

    def wrong(self, at: int) -> bool:  # noqa: ARG002
        """Whether it is not what the file says; a number is more or less near."""
        return False

    def record(self, at: int) -> str | None:
        group = self.cases.examples.group
        return None if group is None else str(group[at])

    def at_s(self, at: int) -> float | None:
        """When it was, in seconds from the start of its record."""
        known = self.cases.at_s is not None and not math.isnan(self.cases.at_s[at])
        return float(self.cases.at_s[at]) if self.cases.at_s is not None and known else None

    def line(self, at: int) -> int | None:
        """The line of its file."""
        return None if self.cases.line is None else int(self.cases.line[at])

    def full(self, name: str) -> str:
        """A class with what it is called in full."""
        return f"{name} {self.names[name]}" if name in self.names else name

    @property
    def names(self) -> dict[str, str]:
        """The full names of the classes, where the task has any."""
        return dict(zip(self.task.classes, self.task.class_names, strict=False))

    @property
    def counts(self) -> dict[str, int]:
        """How many examples are said to be of each kind, or to have each label."""
        return {}

    @property
    def right(self) -> int | None:
        """How many are what the file says, if it does, and that can be said."""
        return None

    @property
    def verdict(self) -> str:
        """How it compares with what the file says, if it does."""
        targets = self.cases.examples.targets
        if not self.cases.labelled or self.said.shape != targets.shape:
            return ""
        off = float(np.abs(self.said - targets).mean())
        return f"The mean absolute error is {figure(off, 4)} {self.task.unit}".rstrip() + "."

    def plain(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return {
            "examples": len(self),
            **self._head(),
            "note": self.cases.note,
            "read": list(self.cases.origins),
            "predictions": [
                {"number": at + 1, "record": self.record(at), "at_s": self.at_s(at),
                 "line": self.line(at), "true": self._true(at), **self._plain(at)}
                for at in range(len(self))
            ],
        }  # fmt: skip

    def _head(self) -> dict[str, Any]:
        return {"unit": self.task.unit}

    def _true(self, at: int) -> Any:
        return self.cases.examples.targets[at].tolist() if self.cases.labelled else None

    def _plain(self, at: int) -> dict[str, Any]:
        return {"value": self.said[at].tolist()}


class Classes(Predictions):
    """The class of each example; `said` are the probabilities, shape (n, classes)."""

    heads = ("class", ">probability", "else")  # type: ignore[assignment]

    def top(self, at: int) -> list[tuple[str, float]]:
        """The most probable classes of one example, with their probabilities."""
        order = (-self.said[at]).argsort(kind="stable")[:TOP]
        return [(self.task.classes[c], float(self.said[at, c])) for c in order]

    def row(self, at: int) -> list[str]:
        (name, probability), *others = self.top(at)
        return [self.full(name), f"{probability:.3f}", "  ".join(f"{n} {p:.3f}" for n, p in others)]

    def kind(self, at: int) -> str:
        return self.task.classes[int(self.said[at].argmax())]

    def headline(self, at: int) -> str:
        name, probability = self.top(at)[0]
        return f"{name} {probability:.2f}"

    def true(self, at: int) -> str | None:
        return self.task.classes[self.cases.examples.labels[at]] if self.cases.labelled else None

    def wrong(self, at: int) -> bool:
        return self.cases.labelled and self.true(at) != self.kind(at)

    @property
    def counts(self) -> dict[str, int]:
        counts = Counter(map(self.kind, range(len(self))))
        return {name: counts[name] for name in self.task.classes}

    @property
    def right(self) -> int | None:
        return len(self) - sum(map(self.wrong, range(len(self)))) if self.cases.labelled else None

    @property
    def verdict(self) -> str:
        if self.right is None:
            return ""
        share = f"({100 * self.right / len(self):.1f} %)"
        return f"{self.right:,} of {len(self):,} are of the class that the file says {share}."

    def _head(self) -> dict[str, Any]:
        return {"class_names": self.names, "counts": self.counts, "right": self.right}

    def _true(self, at: int) -> Any:
        return self.true(at)

    def _plain(self, at: int) -> dict[str, Any]:
        top = [{"class": name, "probability": p} for name, p in self.top(at)]
        return {**top[0], "top": top}


class Labels(Classes):
    """The labels that fit each example; `said` are the probabilities, shape (n, labels)."""

    heads = ("labels", "else")  # type: ignore[assignment]

    @cached_property
    def fits(self) -> "NDArray[np.bool_]":
        """From the task's threshold on."""
        assert isinstance(self.task, MultiLabel)
        return self.task.fits(self.said)

    def top(self, at: int) -> list[tuple[str, float]]:
        order = (-self.said[at]).argsort(kind="stable")
        return [(self.task.classes[c], float(self.said[at, c])) for c in order]

    def row(self, at: int) -> list[str]:
        fitting = self._names(self.fits[at])
        top = [(f"{name} {p:.3f}", name in fitting) for name, p in self.top(at)]
        others = [text for text, fits in top if not fits][:TOP]
        return ["  ".join(text for text, fits in top if fits) or "none", "  ".join(others)]

    def kind(self, at: int) -> str:
        return ", ".join(self._names(self.fits[at])) or "none"

    def headline(self, at: int) -> str:
        return self.kind(at)

    def true(self, at: int) -> str | None:
        return (", ".join(self._true(at)) or "none") if self.cases.labelled else None

    @property
    def counts(self) -> dict[str, int]:
        found = self.fits.sum(axis=0).tolist()
        return dict(zip(self.task.classes, found, strict=True))

    @property
    def verdict(self) -> str:
        return super().verdict.replace("are of the class", "have exactly the labels")

    def _true(self, at: int) -> Any:
        return self._names(self.cases.examples.targets[at] > 0) if self.cases.labelled else None

    def _plain(self, at: int) -> dict[str, Any]:
        top, fitting = dict(self.top(at)), self._names(self.fits[at])
        return {"labels": [name for name in top if name in fitting], "probabilities": top}

    def _names(self, fits: "NDArray[np.bool_]") -> list[str]:
        return [name for name, fit in zip(self.task.classes, fits, strict=True) if fit]


class Scores(Classes):
    """How unusual each example is, and whether that is more than the threshold."""

    heads = (">score", "flag")  # type: ignore[assignment]

    def row(self, at: int) -> list[str]:
        return [f"{self.said[at]:.4g}", self.kind(at) if self._flagged(at) else ""]

    def kind(self, at: int) -> str:
        return "" if self.threshold is None else self.task.classes[bool(self._flagged(at))]

    def headline(self, at: int) -> str:
        return f"{self.said[at]:.3g} {self.row(at)[1]}".rstrip()

    def true(self, at: int) -> str | None:
        targets = self.cases.examples.targets
        return self.task.classes[int(targets[at] > 0)] if self.cases.labelled else None

    def wrong(self, at: int) -> bool:
        return bool(self.kind(at)) and super().wrong(at)

    @property
    def counts(self) -> dict[str, int]:
        return {} if self.threshold is None else super().counts

    @property
    def right(self) -> int | None:
        return None if self.threshold is None else super().right

    @property
    def verdict(self) -> str:
        if self.threshold is None:
            return "No threshold is known: nothing is flagged; --threshold sets one."
        text = f"Flagged is what is above {self.threshold:.4g}."
        right = self.right
        return text if right is None else f"{text} {right:,} of {len(self):,} are as the file says."

    def _head(self) -> dict[str, Any]:
        return {"threshold": self.threshold, "counts": self.counts, "right": self.right}

    def _plain(self, at: int) -> dict[str, Any]:
        return {"score": float(self.said[at]), "anomaly": self._flagged(at)}

    def _flagged(self, at: int) -> bool | None:
        return None if self.threshold is None else bool(self.said[at] > self.threshold)


OF = {"class": Classes, "labels": Labels, "score": Scores, "number": Predictions}
"""By what the models of a task say."""
