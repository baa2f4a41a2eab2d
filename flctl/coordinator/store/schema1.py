"""Journals of flctl 0.1, which was never published: readable, but cannot be resumed."""

from typing import Any

import msgspec

from flctl.core.events import AnyEvent
from flctl.core.metrics import CLASSES, DEFAULT_METRICS
from flctl.wire.messages import TRAINING

SCHEMA = 1


def read(line: bytes) -> AnyEvent:
    """The event of a line, as it is today. Raises what msgspec raises."""
    event = msgspec.json.decode(line, type=dict[str, Any])
    people = event.get("participants")
    for part in people.values() if isinstance(people, dict) else ():
        if isinstance(part, dict):
            part.setdefault("last_loss", part.get("loss"))  # only the updates had it
    if isinstance(score := event.get("metrics"), dict):
        event["metrics"] = _score(score)
    read: AnyEvent = msgspec.convert(event, AnyEvent)
    return read


def _score(old: dict[str, Any]) -> dict[str, Any]:
    """The best round was chosen by the part that counted, which was one for testing."""
    part, figures = old.get("part", "test"), _metrics(old)
    beside: Any = old.get("beside")
    return {
        **figures,
        "source": old.get("source"),
        "part": part,
        "beside": {name: _metrics(other) for name, other in beside.items()}
        if isinstance(beside, dict)
        else {},
        "validation": None if str(part).startswith(TRAINING) else figures,
        "validated_by": old.get("source"),
        "chosen_on": part,
    }


def _metrics(old: Any) -> Any:
    if not isinstance(old, dict):
        return old
    table = old.get("confusion") or old.get("per_class")
    return {
        "examples": old.get("examples"),
        "values": {metric.name: old.get(metric.name) for metric in DEFAULT_METRICS},
        "counts": {CLASSES: table} if table else {},
    }
