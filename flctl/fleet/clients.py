"""Clients without a process of their own: their data, and their part of a round."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from msgspec import structs

from flctl.coordinator.store.folder import RunFolder
from flctl.coordinator.store.resume import FirstModel
from flctl.core.history import UpdateStored
from flctl.core.randomness import Seeding
from flctl.files import explained
from flctl.learning.compression import save_update
from flctl.learning.examples import Examples
from flctl.learning.reading import Reading
from flctl.learning.source import all_parts, held_out_examples
from flctl.learning.state import arrays_of, buffers_in, checkpoint_metadata, load_state
from flctl.learning.task import Task
from flctl.learning.training import OnStep, train_locally
from flctl.settings import RunSettings, agent_names, parse
from flctl.wire.messages import Digest, MeasuredPart
from flctl.worker.execution import Executor
from flctl.worker.jobs import DataSource, Initialise, shards_of


def first_model(given: dict[str, Any], where: str, *, stored: bool = False) -> FirstModel:
    """Complete the settings and make the first model in this process; `stored` is for those of
    a run that exists. Raises FlctlError."""
    made, fd = Executor().initialise(Initialise(given=given, where=where, stored=stored))
    settings = parse(made.settings, where)
    return FirstModel(settings, made.task_digest, made.measures, made.blob, made.size, fd)


class Clients:
    """The data of all virtual clients, dealt as a local fleet's would be."""

    def __init__(self, task: Task, settings: RunSettings) -> None:
        self.names = agent_names(settings.virtual or settings.local or 1)
        self._task, self._data = task, settings.data
        self._shards = shards_of(settings)
        path = self._path = None if settings.data is None else Path(settings.data)
        self._everything = Reading(path, lambda: task.train_data(path))
        self._held_out = Reading(path, self._read_held_out)
        self._dealt: Examples | None = None
        self.training: dict[str, Examples] = {}
        """Of those that have some."""
        self.validation: dict[str, Examples] = {}
        self.refresh()

    def refresh(self) -> None:
        """Read and deal them again, if they have changed. Raises DataError, TaskError."""
        everything = self._everything.get()
        if everything is not self._dealt:
            parts = all_parts(self._task, everything, self._path, self._shards[0])
            dealt = {name: p for name, p in zip(self.names, parts, strict=True) if p is not None}
            self.training = {name: training for name, (training, _) in dealt.items()}
            self.validation = {name: own for name, (_, own) in dealt.items() if own is not None}
            self._dealt = everything

    def own(self, part: MeasuredPart) -> dict[str, Examples]:
        """Of those that have such a part. Raises DataError, TaskError."""
        return self._held_out.get() if part == "test" else self.validation

    def _read_held_out(self) -> dict[str, Examples]:
        sources = (DataSource(path=self._data, shard=shard) for shard in self._shards)
        found = (held_out_examples(self._task, source) for source in sources)
        pairs = zip(self.names, found, strict=True)
        return {name: examples for name, examples in pairs if examples is not None}


def train_client(
    folder: RunFolder,
    task: Task,
    settings: RunSettings,
    examples: Examples,
    *,
    base: Digest,
    seeding: Seeding,
    device: torch.device,
    clock: Callable[[], float] = time.time,
    on_step: OnStep | None = None,
) -> UpdateStored:
    """One client's part of a round; its update goes into the spool like any agent's."""
    began, round_id = time.monotonic(), seeding.round
    model = folder.verify_model(round_id - 1, base)
    with model.open("rb") as file:
        start = load_state(file.fileno(), str(model))
        buffers = buffers_in(file.fileno(), str(model))
    result = train_locally(
        task,
        start,
        examples,
        settings.local_training(round_id),
        seeding,
        device=device,
        on_step=on_step,
    )
    path = folder.make_spool(round_id) / f"{seeding.agent}.safetensors"
    with explained(path, "store an update"), path.open("wb", buffering=0) as spooled:
        saved = save_update(
            spooled.fileno(),
            arrays_of(start),
            arrays_of(result.state),
            settings,
            checkpoint_metadata(settings.task),
            seeding,
            batches=result.batches,
            residuals=folder.residuals_path(seeding.agent),
            buffers=buffers,
        )
    claim = result.claim(saved.error, round(time.monotonic() - began, 4), examples)
    return UpdateStored(
        at=round(clock(), 3),
        round=round_id,
        agent=seeding.agent,
        version=seeding.version,
        sequence=seeding.sequence,
        blob=saved.blob,
        size=saved.size,
        **structs.asdict(claim),
    )
