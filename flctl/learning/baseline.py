"""Baselines for federated learning: all data in one place, and each agent alone.

Both start from the model that the run of these settings starts from, and do as much
local work in each round as its agents do together (`central`) or each (`local_only`).
"""

from collections.abc import Callable, Mapping, Sequence

import msgspec
import torch
from torch import nn

from flctl.core.randomness import Seeding
from flctl.core.spread import mean
from flctl.learning.evaluation import measured
from flctl.learning.examples import Examples, concatenate
from flctl.learning.state import assign, snapshot
from flctl.learning.task import Task, initial_model
from flctl.learning.training import train_locally
from flctl.settings import RunSettings
from flctl.wire.messages import Metrics

Curve = dict[int, Metrics]
"""By round, counted from 1."""
OnModel = Callable[[str, int, nn.Module], None]
"""Called with the name, the round and the model at each evaluation."""


def central(
    task: Task,
    shards: Sequence[Examples],
    settings: RunSettings,
    test: Examples,
    *,
    every: int = 1,
    device: torch.device | None = None,
    on_model: OnModel | None = None,
) -> Curve:
    """Train on the data of all `shards` in one place; evaluated every `every` rounds."""
    limit = settings.federate_after_n_batches
    if limit is not None:
        limit *= len(shards)
    together = msgspec.structs.replace(settings, federate_after_n_batches=limit)
    pooled = concatenate(shards, "the pooled data")
    return _train_alone(
        task, pooled, together, test, "central", every=every, device=device, on_model=on_model
    )


def local_only(
    task: Task,
    shards: Mapping[str, Examples],
    settings: RunSettings,
    test: Examples,
    *,
    every: int = 5,
    device: torch.device | None = None,
    on_model: OnModel | None = None,
) -> Curve:
    """Each agent of `shards` (name → data) trains alone; the mean of their metrics."""
    curves = [
        _train_alone(
            task, examples, settings, test, agent, every=every, device=device, on_model=on_model
        )
        for agent, examples in shards.items()
    ]
    return {round_id: mean([curve[round_id] for curve in curves]) for round_id in curves[0]}


def _train_alone(
    task: Task,
    examples: Examples,
    settings: RunSettings,
    test: Examples,
    agent: str,
    *,
    every: int,
    device: torch.device | None,
    on_model: OnModel | None,
) -> Curve:
    model = initial_model(task, settings.seed)
    state, position, curve = snapshot(model), 0, {}
    for round_id in range(1, settings.rounds + 1):
        result = train_locally(
            task,
            state,
            examples,
            settings.local_training(round_id),
            Seeding(settings.seed, agent, round_id - 1, round_id, position),
            device=device,
        )
        state, position = result.state, position + result.batches
        if round_id % every == 0 or round_id == settings.rounds:
            assign(model, state)
            curve[round_id] = measured(
                task, model, test, batch_size=settings.test_batch_size, device=device
            )
            if on_model is not None:
                on_model(agent, round_id, model)
    return curve
