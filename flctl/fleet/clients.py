"""Clients without a process of their own: their data, and their part of a round."""

import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from msgspec import structs
from torch import Tensor, nn

from flctl.coordinator.run.evaluator import first_of
from flctl.coordinator.store.folder import RunFolder
from flctl.coordinator.store.resume import FirstModel
from flctl.core.events import UpdateStored
from flctl.core.randomness import Seeding
from flctl.learning import device as devices
from flctl.learning.compression import Arrays, save_update
from flctl.learning.evaluation import evaluate
from flctl.learning.examples import Examples
from flctl.learning.groups import Groups
from flctl.learning.once import Once
from flctl.learning.private import PrivateTensors
from flctl.learning.reading import Reading
from flctl.learning.reuse import Reused
from flctl.learning.source import deal, deal_held_out, digest_of_dealt
from flctl.learning.state import (
    arrays_of,
    buffers_in,
    checkpoint_metadata,
    load_frozen,
    load_into,
    load_state,
)
from flctl.learning.task import Task
from flctl.learning.training import OnStep, train_locally
from flctl.learning.whole import private_path
from flctl.settings import RunSettings, agent_names, parse
from flctl.wire.messages import Digest, MeasuredPart, Sums
from flctl.worker.execution import Executor, tests_of
from flctl.worker.jobs import Initialise, for_testing, shards_of


def first_model(
    given: dict[str, Any], where: str, *, stored: bool = False, once: Once | None = None
) -> FirstModel:
    """Complete the settings and make the first model in this process; `stored` is for those of
    a run that exists. Raises FlctlError."""
    made, fd = Executor(once).initialise(Initialise(given=given, where=where, stored=stored))
    return first_of(made, parse(made.settings, where), fd)


def test_data(task: Task, settings: RunSettings, once: Once) -> Reading[dict[str, Examples]]:
    """What a run's models are measured on."""
    source = for_testing(settings)
    path = None if source.path is None else Path(source.path)
    return Reading(path, lambda: tests_of(task, source, once))


class Clients:
    """The data of all virtual clients, divided as for a local fleet."""

    def __init__(self, task: Task, settings: RunSettings) -> None:
        self.names = agent_names(settings.virtual or settings.local or 1)
        self._task = task
        path = self._path = None if settings.data is None else Path(settings.data)
        self._shard, self._owners = shards_of(settings)[0], dict(enumerate(self.names))
        self._everything = Reading(path, lambda: task.train_data(path))
        self._held_out = Reading(path, lambda: deal_held_out(task, path, self._shard, self._owners))
        self._dealt: Examples | None = None
        self.training: Mapping[str, Examples] = {}
        """Training examples of the agents that have some."""
        self.validation: Mapping[str, Examples] = {}
        self.refresh()

    def refresh(self) -> None:
        """Read and divide them again, if they have changed. Raises DataError, TaskError."""
        everything = self._everything.get()
        if everything is not self._dealt:
            self.training, self.validation = deal(
                self._task, everything, self._path, self._shard, self._owners
            )
            self._dealt = everything

    @property
    def digest(self) -> Digest:
        """Of what they train on, and of who has which."""
        return digest_of_dealt(self.training)

    def own(self, part: MeasuredPart) -> Mapping[str, Examples]:
        """The part of each agent that has one. Raises DataError, TaskError."""
        return self._held_out.get() if part == "test" else self.validation


Whose: TypeAlias = tuple[str, int]
"""A client, and the batches that it has consumed up to a model."""


class Trainer:
    """Trains clients one after another, in `folder`: what all of a round need is read once."""

    def __init__(self, folder: RunFolder, task: Task, settings: RunSettings) -> None:
        self._folder, self._task, self._settings = folder, task, settings
        self.device = devices.set_up(settings.device, settings.threads)
        self._reused = Reused(task)
        self._frozen: dict[str, Tensor] | None = None
        """The tensors that do not train, once they are read."""
        self._base: _Base | None = None
        self._measured: tuple[tuple[Path, Path | None], nn.Module] | None = None
        """The model that was measured last, until something is trained."""

    def train(
        self,
        examples: Examples,
        base: Digest,
        seeding: Seeding,
        settings: RunSettings | None = None,
        on_step: OnStep | None = None,
    ) -> tuple[UpdateStored, bytearray]:
        """One client's part of a round: what is journaled of its update, and its file. What top-k
        has not sent is not synced."""
        began, round_id = time.monotonic(), seeding.round
        settings, self._measured = settings or self._settings, None
        start, own = self._read(round_id - 1, base), self._own(seeding.agent)
        private, lost = own.begin(seeding.position, seeding.seed)
        result = train_locally(
            self._task,
            {**start.state, **private},
            examples,
            settings.local_training(round_id),
            seeding,
            device=self.device,
            on_step=on_step,
            reused=self._reused,
        )
        blob = bytearray()
        saved = save_update(
            blob,
            start.arrays,
            arrays_of(self._groups.of_shared(result.state)),
            settings,
            checkpoint_metadata(settings.task),
            seeding,
            batches=result.batches,
            residuals=self._folder.residuals_path(seeding.agent),
            buffers=start.buffers,
            durable=False,
        )
        own.keep(seeding.position + result.batches, result.state, before=seeding.position)
        claim = result.claim(saved.error, round(time.monotonic() - began, 4), examples, lost)
        update = UpdateStored(
            at=round(time.time(), 3),
            round=round_id,
            agent=seeding.agent,
            version=seeding.version,
            sequence=seeding.sequence,
            blob=saved.blob,
            size=saved.size,
            **structs.asdict(claim),
        )
        return update, blob

    def evaluate(
        self, path: Path, examples: Examples, only: int | None = None, whose: Whose = ("", 0)
    ) -> Sums:
        """Sums of the model in the file `path`, with the private tensors of a client if the model
        has any; see `flctl.learning.evaluation`."""
        agent, position = whose
        private = self._own(agent).file(position)
        if self._measured is None or self._measured[0] != (path, private):
            model = self._reused.model()
            with path.open("rb") as file:
                load_into(model, file.fileno(), str(path), self._folder.frozen, private)
            self._measured = (path, private), model
        model, size = self._measured[1], self._settings.test_batch_size
        return evaluate(self._task, model, examples, batch_size=size, device=self.device, only=only)

    @cached_property
    def _groups(self) -> Groups:
        return Groups.of(self._task, self._reused.model())

    def _own(self, agent: str) -> PrivateTensors:
        return PrivateTensors(private_path(self._folder.path, agent), self._task, self._groups)

    def _read(self, round_id: int, base: Digest) -> "_Base":
        if self._base is None or self._base.digest != base:
            self._base = None  # its memory before that of the next one
            model = self._folder.verify_model(round_id, base)
            if self._frozen is None:
                self._frozen = load_frozen(self._folder.frozen)
            with model.open("rb") as file:
                shared = load_state(file.fileno(), str(model))
                state = self._groups.whole(shared, self._frozen)
                buffers = buffers_in(file.fileno(), str(model))
                self._base = _Base(base, state, arrays_of(shared), buffers)
        return self._base


class _Base(NamedTuple):
    """The model that a round starts from."""

    digest: Digest
    state: dict[str, Tensor]
    """Without private tensors."""
    arrays: Arrays
    buffers: frozenset[str]
