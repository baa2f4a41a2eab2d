"""Decisions that rounds of a fleet and virtual rounds share (a replay shares only `weigh_in`), and
for a fleet's rounds, whether an offer is plausible."""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping

from flctl.coordinator.run.aggregation import Aggregated
from flctl.coordinator.store.folder import RunFolder
from flctl.core import events
from flctl.core.history import History
from flctl.core.roster import JUMP
from flctl.core.round import Draw
from flctl.settings import RunSettings
from flctl.wire.messages import UpdateReady

HEADER_SLACK = 1 << 20
"""How much larger than the model an update may be: its writer may use a larger header."""


def finish(history: History, settings: RunSettings, at: float) -> events.RunFinished | None:
    """How the run ends, if it has no next round."""
    exhausted = settings.on_exhausted == "stop" and bool(history.exhausted)
    if history.round < settings.rounds and not exhausted:
        return None
    used = history.data_used if history.round < settings.rounds else ""
    reason = "; ".join(filter(None, (used, history.alone)))
    return events.RunFinished(at=at, reason=reason, personalises=settings.personalise)


def evaluation_due(
    history: History, settings: RunSettings, updates: Mapping[str, events.UpdateStored]
) -> bool:
    """Whether to evaluate the model that the open round makes of `updates`: in every
    `evaluate_every`th round, and in the one that ends the run."""
    if settings.evaluate == "none":
        return False
    due = (history.round + 1) % settings.evaluate_every == 0
    return due or is_last(history, settings, updates)


def is_last(
    history: History, settings: RunSettings, updates: Mapping[str, events.UpdateStored]
) -> bool:
    """Whether the run ends with the open round, to which `updates` belong."""
    used = bool(history.exhausted) or any(update.exhausted for update in updates.values())
    ends = settings.on_exhausted == "stop" and used
    return history.round + 1 >= settings.rounds or ends


def open_round(
    folder: RunFolder, history: History, drawn: Draw, attempt: int, at: float
) -> events.RoundOpened:
    """An attempt of the next round, of these. Raises StateError where the disk has no room."""
    folder.room_for(history.size, len(drawn.invited) - len(history.accepted))
    return events.RoundOpened(
        at=at,
        round=history.round + 1,
        attempt=attempt,
        base=history.base,
        invited=drawn.invited,
        need=drawn.need,
        absent=drawn.absent,
    )


def weigh_in(updates: Mapping[str, events.UpdateStored | events.Participant]) -> dict[str, int]:
    """The examples that each update weighs by, in the order of the agents' names."""
    return {agent: update.examples for agent, update in sorted(updates.items())}


def offer_problem(offer: UpdateReady, declared: int, size: int, settings: RunSettings) -> str:
    """Reason not to fetch the update, or an empty string if it may be fetched. The model has `size`
    bytes; the agent has `declared` that many examples."""
    claim, update, asked = offer.claim, offer.update, settings.compression
    if claim.examples > declared:
        return f"it claims {claim.examples} examples, {declared} were declared"
    if update.codec != asked or update.base not in (None, offer.key.base):
        return f"it is compressed as {update.codec!r:.40}, the run asks for {asked}"
    if update.size > size + HEADER_SLACK:
        return f"it offers {update.size} bytes, the model has {size}"
    if not 0 <= claim.compression_error < math.inf:
        return "the error of its compression is not a finite number of at least 0"
    if not (math.isfinite(claim.loss) and math.isfinite(claim.last_loss)):
        return "its training loss is not a finite number; begin a new run with a lower lr"
    return ""


def jumps(examples: Mapping[str, int], history: History) -> dict[str, str]:
    """Agents whose count of examples has jumped since their last round, and how.

    A count cannot be proved, but `max_share` bounds an agent's weight in any case.
    """
    last = history.weights
    return {
        agent: f"claims {count} examples, {last[agent]} in its round before"
        for agent, count in sorted(examples.items())
        if agent in last and count > JUMP * last[agent]
    }


def oddities(
    updates: Mapping[str, events.UpdateStored], history: History
) -> Iterator[tuple[str, str, str]]:
    """What people should know of agents' updates: the agent, what it is, and the details."""
    for agent, why in jumps(weigh_in(updates), history).items():
        yield agent, "its examples have jumped", why
    for agent, update in sorted(updates.items()):
        if update.private_lost:
            yield agent, "its private tensors were lost", "it has begun with the first ones again"


def positions_after(history: History, updates: Mapping[str, events.UpdateStored]) -> dict[str, int]:
    """Batches that each agent has consumed, with those of the open round's `updates`."""
    new = {agent: update.batches for agent, update in updates.items()}
    before = history.positions
    return {agent: before.get(agent, 0) + new.get(agent, 0) for agent in before.keys() | new}


def measured_at(history: History, names: Iterable[str], private: bool) -> dict[str, int]:
    """Those of these agents that can measure the model of the open round: with private tensors, who
    has trained. And the batches that each has consumed then, else 0."""
    if not private:
        return dict.fromkeys(names, 0)
    positions = positions_after(history, history.accepted)
    return {name: positions[name] for name in names if positions.get(name)}


def commit(
    history: History,
    updates: Mapping[str, events.UpdateStored],
    made: Aggregated,
    score: events.Score | None,
    missing: Collection[str],
    seconds: float,
    at: float,
) -> events.RoundCommitted:
    """The event that commits the open round; `missing` are the agents that did not deliver."""
    assert history.opened is not None and history.started is not None
    known = history.data if history.started.kind != "fleet" else {}  # a fleet's may always grow
    changed = (a for a, u in updates.items() if u.data and known.get(a) not in (None, u.data))
    return events.RoundCommitted(
        at=at,
        round=history.opened.round,
        attempt=history.opened.attempt,
        model=made.model,
        size=made.size,
        seconds=round(seconds, 4),
        participants={
            agent: events.Participant.of(update) for agent, update in sorted(updates.items())
        },
        missing=tuple(sorted({*missing} - updates.keys())),
        metrics=score,
        server_state=made.server_state,
        changed_data=tuple(sorted(changed)),
    )
