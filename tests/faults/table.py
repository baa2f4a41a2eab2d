"""One line for each fault: what it was, what was seen, and whether everything held."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pytest
from checker import Evidence


@dataclass
class Result:
    part: str
    fault: str
    """What was done; the test's name until it says so itself."""
    times: int = 1
    """How often it was done."""
    noticed_s: float | None = None
    """From the fault to the moment at which flctl says it."""
    recovered_s: float | None = None
    """From the fault, or its end, until work goes on."""
    notes: list[str] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def checked(self, found: Evidence) -> None:
        self.seen["runs"] += 1
        self.seen["rounds"] += sum(line["event"] == "round" for line in found.journal)
        self.seen["updates"] += sum(line["event"] == "update" for line in found.journal)

    def plain(self) -> dict[str, Any]:
        """For the report, which may come from another process."""
        return {**asdict(self), "seen": dict(self.seen)}


def results_of(report: pytest.TestReport) -> list[dict[str, Any]]:
    return [
        {**value, "held": report.outcome == "passed", "took_s": report.duration}
        for name, value in report.user_properties
        if name == "fault"
    ]


def as_text(rows: Sequence[dict[str, Any]]) -> str:
    head = ("part", "fault", "times", "rounds", "noticed", "recovered", "took", "")
    lines = [head] + [
        (
            row["part"],
            row["fault"],
            str(row["times"]),
            str(row["seen"].get("rounds", "")),
            seconds(row["noticed_s"]),
            seconds(row["recovered_s"]),
            seconds(row["took_s"]),
            "ok" if row["held"] else "BROKEN",
        )
        for row in sorted(rows, key=lambda row: (row["part"], row["fault"]))
    ]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    text = [
        "  ".join(word.ljust(w) for word, w in zip(line, widths, strict=True)) for line in lines
    ]
    notes = [f"{row['fault']}: {note}" for row in rows for note in row["notes"]]
    held = sum(row["held"] for row in rows)
    return "\n".join([*map(str.rstrip, text), "", *notes, f"{held} of {len(rows)} held"])


def seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} s"
