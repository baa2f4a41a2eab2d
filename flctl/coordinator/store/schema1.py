"""Journals of flctl 0.1, which was never published: read, and never gone on with."""

from typing import Any

import msgspec

from flctl.core.history import AnyEvent

SCHEMA = 1


def read(line: bytes) -> AnyEvent:
    """The event of a line, as it is today. Raises what msgspec raises."""
    event = msgspec.json.decode(line, type=dict[str, Any])
    people = event.get("participants")
    for part in people.values() if isinstance(people, dict) else ():
        if isinstance(part, dict):
            part.setdefault("last_loss", part.get("loss"))  # only the updates said it
    read: AnyEvent = msgspec.convert(event, AnyEvent)
    return read
