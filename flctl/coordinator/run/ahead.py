"""Sends the agents of the next round to its model while that is made durable and measured.

A promise of nothing: what an agent has fetched counts once the round is committed and its order
comes. So the disk, and an evaluation, cost a round only what they take longer than the network.
"""

import logging
from collections.abc import Mapping

from flctl.coordinator.run.aggregation import Aggregated
from flctl.coordinator.run.context import RunContext
from flctl.coordinator.run.decisions import is_last
from flctl.core.events import UpdateStored
from flctl.core.round import draw
from flctl.errors import StateError
from flctl.wire.messages import Coded, NextModel

logger = logging.getLogger(__name__)


def send_ahead(context: RunContext, made: Aggregated, updates: Mapping[str, UpdateStored]) -> None:
    """Name the model that the open round has `made` of `updates` to the agents that the next round
    would draw now; to none when its file cannot be read, which the round itself will find out."""
    history, settings = context.history, context.settings
    if history.held or is_last(history, settings, updates):
        return
    pool = context.crew().pool(context.clock())
    drawn = draw(settings, history.round + 2, pool, (), context.min_participants)
    try:
        context.serve(made.model, made.path)
    except StateError as error:
        logger.warning("round=%d is not fetched ahead: %s", history.round + 2, error)
        return
    message = NextModel(run=context.run, model=Coded(blob=made.model, size=made.size))
    for agent in sorted(pool.here.intersection(drawn.invited)):
        context.host.tell(agent, message)
