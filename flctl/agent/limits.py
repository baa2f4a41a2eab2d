"""Limits set by the owner of this device, checked before a model is fetched.

What only the data can tell, such as how large the batches really are, the worker checks
before it trains (`flctl.learning.limits`).
"""

import math
from collections.abc import Mapping

from flctl.wire.messages import Limits, Personalise, Train

HOUR_S = 3600.0
MIB = 2**20


def too_large(size: int, limits: Limits) -> str | None:
    """Reason not to fetch a model of `size` bytes, or None."""
    if size <= limits.max_model_mb * MIB:
        return None
    return f"a model of {math.ceil(size / MIB)} MiB is above --max-model-mb {limits.max_model_mb}"


def below_floor(order: Train | Personalise, limits: Limits) -> str | None:
    """Reason why the settings of `order` cannot satisfy the limits on any data, or None."""
    training = order.training
    if training.batch_size < limits.min_batch_size:
        return (
            f"batches of {training.batch_size} are below --min-batch-size {limits.min_batch_size}"
        )
    most = training.federate_after_n_batches
    if most is None:
        return None
    if most < limits.min_batches:
        return f"federate_after_n_batches={most} is below --min-batches {limits.min_batches}"
    if most * training.batch_size < limits.min_examples:
        return (
            f"federate_after_n_batches={most} of batch_size={training.batch_size} is below "
            f"--min-examples {limits.min_examples}"
        )
    return None


class Pace:
    """Counts what was begun in the last hour, at most `most` of each kind (0: no limit)."""

    def __init__(self, most: int, begun: Mapping[str, list[float]], now: float) -> None:
        self._most = most
        self._begun = {what: [at for at in times if at <= now] for what, times in begun.items()}

    def wait_s(self, what: str, now: float) -> float:
        """Seconds until another one may begin; 0: now."""
        recent = [at for at in self._begun.get(what, []) if now - at < HOUR_S]
        self._begun[what] = recent
        if not self._most or len(recent) < self._most:
            return 0.0
        return recent[-self._most] + HOUR_S - now

    def begins(self, what: str, now: float) -> None:
        if self._most:
            self._begun.setdefault(what, []).append(now)

    @property
    def begun(self) -> dict[str, list[float]]:
        """When work of each kind began, by the clock of `now`; for `AgentState.save_pace`."""
        return self._begun if self._most else {}
