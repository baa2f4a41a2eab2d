"""A run as CSV: a row for each round, or for each agent of each round."""

import csv
import io
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TypeAlias

from flctl.core.events import Participant, RoundCommitted, Score
from flctl.core.metrics import is_defined, named
from flctl.wire.messages import VALIDATION, Metrics

Row: TypeAlias = dict[str, str | float | None]
SUMMED = ("examples", "batches", "bytes_up")
OF_AN_UPDATE = ("examples", "data", "batches", "seconds", "bytes_up", "compression_error")
"""Fields of `Participant` that are columns."""


def round_rows(rounds: Sequence[RoundCommitted]) -> list[Row]:
    """Columns of other parts of the test data begin with the part's name."""
    rows: list[Row] = []
    names = named(event.metrics for event in rounds)
    for event in rounds:
        people, score = event.participants, event.metrics
        rows.append(
            {
                "round": event.round,
                "at": datetime.fromtimestamp(event.at, UTC).isoformat(timespec="seconds"),
                "attempt": event.attempt,
                "seconds": event.seconds,
                "agents": len(people),
                "missing": " ".join(event.missing),
                **{name: sum(getattr(part, name) for part in people.values()) for name in SUMMED},
                "training_loss": training_loss(people),
                "evaluated_by": score.source if score else None,
                "part": score.part if score else None,
                **_figures(score, names),
                **{f"validation_{n}": v for n, v in _validation(score, names).items()},
                "model": event.model,
            }
        )
        if score is not None and score.source == "coordinator":
            for name, part in score.beside.items():
                rows[-1] |= {f"{name}_{key}": value for key, value in _figures(part, names).items()}
    return rows


def agent_rows(rounds: Sequence[RoundCommitted]) -> list[Row]:
    """Who trained, and who measured the model on what it holds out."""
    rows: list[Row] = []
    names = named(event.metrics for event in rounds)
    for event in rounds:
        measured = event.metrics.by_agent if event.metrics else {}
        for agent in sorted({*event.participants, *measured, *event.missing}):
            part = event.participants.get(agent)
            rows.append(
                {
                    "round": event.round,
                    "agent": agent,
                    "took_part": "yes" if part else "no",
                    "training_loss": part.loss if part else None,
                    **{name: getattr(part, name, None) for name in OF_AN_UPDATE},
                    **{f"held_out_{k}": v for k, v in _figures(measured.get(agent), names).items()},
                }
            )
    return rows


def as_csv(rows: Sequence[Row]) -> bytes:
    """With a line of names above; a value that is not known is empty."""
    text = io.StringIO()
    columns = list(dict.fromkeys(name for row in rows for name in row))
    table = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue().encode()


def training_loss(participants: Mapping[str, Participant]) -> float | None:
    """Mean over the agents of a round, weighted by their examples; None where there are none."""
    examples = sum(part.examples for part in participants.values())
    if not examples:
        return None
    return sum(part.loss * part.examples for part in participants.values()) / examples


def by_agents(event: RoundCommitted) -> bool:
    """Whether the agents have measured the round's model, so that `beside` is by agent."""
    return event.metrics is not None and event.metrics.source == "agents"


def _validation(score: Score | None, names: Sequence[str]) -> Row:
    chosen = score is not None and score.chosen_on == VALIDATION
    return _known(score.validation if score and chosen else None, names)


def _figures(found: Metrics | None, names: Sequence[str]) -> Row:
    return {**_known(found, names), "test_examples": found.examples if found else None}


def _known(found: Metrics | None, names: Sequence[str]) -> Row:
    values = found.values if found else {}
    return {name: v if is_defined(v := values.get(name)) else None for name in names}
