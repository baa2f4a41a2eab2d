"""What operators ask of the disk; each of these runs on a thread of its own, off the loop."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from flctl.coordinator.front.outbox import ANSWER_BYTES, expect_room
from flctl.coordinator.store.folder import RunFolder, all_runs, summary
from flctl.coordinator.store.journal import chain_of, each_event, published
from flctl.core.stream import Published
from flctl.errors import FlctlError
from flctl.wire.messages import Digest

PAST_EVENTS = 2000
PAST_BYTES = 4 * 1024 * 1024
"""What a watcher is sent of a run's past at a time, at most."""


class Past(NamedTuple):
    run: str
    events: list[Published]
    more: bool
    """There are others after them."""


class Model(NamedTuple):
    digest: Digest
    path: Path
    round: int


class AllRuns(NamedTuple):
    summaries: list[dict[str, Any]]
    unreadable: list[tuple[str, str]]
    """Runs and what is wrong with them."""


def look_at_runs(state: Path) -> AllRuns:
    found = AllRuns([], [])
    for folder in all_runs(state):
        try:
            found.summaries.append(summary(folder))
        except FlctlError as error:
            found.unreadable.append((folder.name, str(error)))
    return found


def look_at_run(state: Path, run: str, events: bool) -> dict[str, Any]:
    """Summary and settings; for older consoles also the chain and all events, which are never
    in memory but encoded. Raises FlctlError, OSError."""
    folder = RunFolder.find(state, run)
    about = {**summary(folder), "settings": msgspec.to_builtins(folder.settings())}
    if events:
        about["chain"] = chain_of(folder.journal_path)
        about["events"] = list(_encoded(folder.journal_path))
    return about


def _encoded(journal: Path) -> Iterator[msgspec.Raw]:
    size = 0
    for event in each_event(journal):
        data = msgspec.msgpack.encode(event)
        size += len(data)
        if size > ANSWER_BYTES:
            expect_room(journal.stat().st_size)
        yield msgspec.Raw(data)


def look_at_past(state: Path, run: str, after: int) -> Past:
    """The next events after that number. Raises FlctlError, OSError."""
    folder = RunFolder.find(state, run)
    found, left = Past(folder.name, [], False), PAST_BYTES
    for told in published(folder.journal_path, after):
        left -= len(msgspec.msgpack.encode(told))
        if len(found.events) == PAST_EVENTS or (left < 0 and found.events):
            return found._replace(more=True)
        found.events.append(told)
    return found


def look_at_model(state: Path, run: str, round_id: int | None) -> Model:
    """The newest model of a run, or that of a round. Raises FlctlError, OSError."""
    folder = RunFolder.find(state, run)
    history = folder.history(lean=True)
    number = history.round if round_id is None else round_id
    return Model(history.model_of(number), folder.kept_model(number, history), number)
