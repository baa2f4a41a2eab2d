"""An agent's own model: found where it was kept, or made and kept there."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flctl.learning.groups import Groups
from flctl.learning.limits import within
from flctl.learning.own_models import OwnModels, OwnRecord, key_of
from flctl.learning.personal import Data, Way, personalise
from flctl.learning.reuse import Reused
from flctl.learning.state import checkpoint_metadata, load_frozen, load_state
from flctl.learning.task import Task, loaded_digest
from flctl.learning.training import OnStep
from flctl.wire.messages import Limits, MeasuredPart, Sums
from flctl.worker.holding import Holding, about_data
from flctl.worker.jobs import Personal, PersonaliseJob

PERSONAL = "personal"
"""In the metadata of an own model: the digest of the run's model that it is made of."""


def fine_tuned(
    job: PersonaliseJob, holding: Holding, model_fd: int, on_step: OnStep, device: torch.device
) -> Personal:
    """From the model in the file descriptor, on what the agent has. Raises FlctlError."""
    with about_data(job.source):
        data = holding.data()
    start = holding.groups.whole(
        load_state(model_fd, "the model to personalise"),
        load_frozen(None if job.frozen is None else Path(job.frozen)),
    )
    return own_model(job, holding.task, data, start, on_step, device)


def own_model(
    job: PersonaliseJob,
    task: Task,
    data: Data,
    start: Mapping[str, Tensor],
    on_step: OnStep,
    device: torch.device,
    reused: Reused | None = None,
) -> Personal:
    """Made again only where it, or what it depends on, is another one. Raises FlctlError."""
    training, _ = within(job.training, len(data.training), job.limits)
    way = Way(training, job.tensors, job.seeding, job.batch_size)
    key = key_of(job.base, job.code or loaded_digest(job.task), data, way)
    models = OwnModels(Path(job.folder))
    record = models.find(job.base, key)
    if record is None:
        outcome, state = personalise(
            task, start, data, way,
            device=device, limits=job.limits, on_step=on_step, reused=reused,
        )  # fmt: skip
        record = OwnRecord(schema=1, base=job.base, run=job.run, key=key, outcome=outcome)
        models.keep(record, state, {**checkpoint_metadata(job.task), **more(task, job)})
    outcome = record.outcome
    return Personal(
        epochs=outcome.epochs,
        shared=_enough(outcome.shared, job.limits),
        own=_enough(outcome.own, job.limits),
    )


def more(task: Task, job: PersonaliseJob) -> dict[str, Any]:
    """What the file of an own model says besides its task, as that of a run's model does."""
    buffers = sorted(Groups.of(task, task.model()).buffers)
    read_as = {} if task.read_as is None else dict(task.read_as.given)
    said = {"buffers": buffers, "read_as": read_as, PERSONAL: job.base}
    return {name: value for name, value in said.items() if value}


def _enough(found: Mapping[MeasuredPart, Sums], limits: Limits | None) -> dict[MeasuredPart, Sums]:
    """Sums of the parts that are large enough for the owner."""
    floor = limits.min_examples if limits is not None else 1
    return {part: sums for part, sums in found.items() if sums.examples >= floor}
