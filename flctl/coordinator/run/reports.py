"""What agents report of their work, as live events of the run."""

import logging
import math

from flctl.coordinator.run.context import RunContext
from flctl.core.stream import AgentFailed, BatchTrained
from flctl.wire.messages import Failed, Progress

logger = logging.getLogger(__name__)


def tell_progress(context: RunContext, agent: str, progress: Progress) -> None:
    """Of the update that the open round asks the agent for; of another one, nothing."""
    if progress.key != context.key_of(agent):
        return
    loss = progress.loss if math.isfinite(progress.loss) else None
    number, step, steps = progress.key.round, progress.step, progress.steps
    context.publish(BatchTrained(round=number, agent=agent, step=step, steps=steps, loss=loss))


def tell_failure(context: RunContext, agent: str, failed: Failed) -> None:
    """An agent's work has failed; it may be trying again."""
    if not context.host.gate.passes(agent):
        return  # too many failures of this agent: not published
    number, kind, why, again = failed.key.round, failed.kind, failed.message, failed.retrying
    text = "round=%d agent=%s %s failed: %s: %s%s"
    then = "; it tries again" if again else ""
    logger.warning(text, number, agent, failed.what, kind, why, then)
    context.publish(AgentFailed(round=number, agent=agent, kind=kind, message=why, retrying=again))
