"""What a fleet's, a virtual and a replayed round decide in the same way."""

from collections.abc import Collection, Mapping

from flctl.coordinator.run.aggregation import Aggregated
from flctl.core.history import (
    History,
    Participant,
    RoundCommitted,
    RunFinished,
    Score,
    UpdateStored,
)
from flctl.settings import RunSettings


def finish(history: History, settings: RunSettings, at: float) -> RunFinished | None:
    """How the run ends, if it has no next round."""
    exhausted = settings.on_exhausted == "stop" and bool(history.exhausted)
    if history.round < settings.rounds and not exhausted:
        return None
    used = history.data_used if history.round < settings.rounds else ""
    return RunFinished(at=at, reason="; ".join(filter(None, (used, history.alone))))


def measures(history: History, settings: RunSettings, updates: Mapping[str, UpdateStored]) -> bool:
    """Whether the model of the open round, made of `updates`, is evaluated: of every
    `evaluate_every`th round, and of the one that the run ends with."""
    if settings.evaluate == "none":
        return False
    number = history.round + 1
    used = bool(history.exhausted) or any(update.exhausted for update in updates.values())
    last = number >= settings.rounds or (settings.on_exhausted == "stop" and used)
    return last or number % settings.evaluate_every == 0


def weigh_in(updates: Mapping[str, UpdateStored | Participant]) -> dict[str, int]:
    """The examples that each update weighs by, in the order of the agents' names."""
    return {agent: update.examples for agent, update in sorted(updates.items())}


def commit(
    history: History,
    updates: Mapping[str, UpdateStored],
    made: Aggregated,
    score: Score | None,
    missing: Collection[str],
    seconds: float,
    at: float,
) -> RoundCommitted:
    """The event that makes the open round count; `missing` are all that were wanted in vain."""
    assert history.opened is not None
    return RoundCommitted(
        at=at,
        round=history.opened.round,
        attempt=history.opened.attempt,
        model=made.model,
        size=made.size,
        seconds=round(seconds, 4),
        participants={agent: Participant.of(update) for agent, update in sorted(updates.items())},
        missing=tuple(sorted({*missing} - updates.keys())),
        metrics=score,
        server_state=made.server_state,
    )
