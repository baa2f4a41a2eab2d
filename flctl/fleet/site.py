"""The process on a node of a cluster: its own copy of the task and the data, and a folder of its
own for what the trainer reads and writes.

What comes and goes are bytes. Orders and answers are msgpack, checked as they are decoded; a
model is compared with its digest.
"""

import hashlib
import socket
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
from msgspec.structs import replace

from flctl import __version__
from flctl.coordinator.run.scoring import parts_to_ask_for
from flctl.coordinator.store.folder import RunFolder
from flctl.coordinator.store.resume import machine
from flctl.errors import RunError
from flctl.fleet.clients import Clients, Trainer, test_data
from flctl.fleet.processes import (
    BatchMeasured,
    ClientTrained,
    MeasureBatch,
    Order,
    OrderDone,
    PersonaliseClient,
    TrainClient,
)
from flctl.learning.examples import Examples
from flctl.learning.once import Once
from flctl.learning.reading import Reading
from flctl.learning.residuals import Residuals
from flctl.learning.source import digest_of_dealt
from flctl.learning.task import loaded_digest, task_of
from flctl.settings import RunSettings
from flctl.wire.messages import VALIDATION, Digest
from flctl.worker.jobs import Event, JobFailed
from flctl.worker.main import failure_of

Sent: TypeAlias = tuple[bytes, bytes | None, bytes | None]
"""An answer, the file of an update, and what top-k has not sent."""
REMOVE = 'exec 3<&0; (read _ <&3; rm -rf -- "$0") &'
"""A shell that waits for the end of its input, which comes with that of the process."""


class SiteFacts(Event, frozen=True):
    """What has to be the same everywhere."""

    flctl: str
    machine: str
    """Processor type and torch build."""
    code: Digest
    """Of the task."""
    data: Digest
    """Of what clients train on and are measured on, and of who has which."""
    host: str
    node: str = ""
    """Ray's name of it."""

    def different(self, other: "SiteFacts") -> str:
        """In words; empty where nothing is."""
        words = {"flctl": "flctl", "machine": "torch", "code": "task code", "data": "data"}
        for name, word in words.items():
            here, there = getattr(self, name), getattr(other, name)
            if here != there:
                return f"{word} {there[:40]}, here {here[:40]}"
        return ""


def facts_of(
    settings: RunSettings, clients: Clients, tests: Reading[dict[str, Examples]]
) -> SiteFacts:
    """Raises DataError, TaskError."""
    how, measured = settings.evaluate, hashlib.sha256(clients.digest.encode())
    here = tests.get() if how in ("auto", "coordinator") else {}
    for name, part in here.items():
        measured.update(f"\n{name} {part.digest}".encode())
    for asked in parts_to_ask_for(how, here, last=True) if how != "none" else ():
        measured.update(f"\n{asked} {digest_of_dealt(clients.own(asked))}".encode())
    return SiteFacts(
        flctl=__version__,
        machine=machine(),
        code=loaded_digest(settings.task),
        data=measured.hexdigest(),
        host=socket.gethostname(),
    )


class ClusterSite:
    """What an actor is made of. Whatever goes wrong in it is an answer."""

    def __init__(self, settings: bytes, frozen: bytes | None) -> None:
        """`frozen`: the file of the tensors that do not train."""
        self._given = settings, frozen
        self._site: _Opened | None = None

    def facts(self) -> Sent:
        """Of this node, as its files are now."""
        return _told(self._facts), None, None

    def do(self, order: bytes, model: tuple[Digest, list[Any]], residual: bytes | None) -> Sent:
        """`model` is the model's digest and where ray has it."""
        files: list[bytes | None] = [None, None]

        def work() -> Event:
            assert self._site is not None  # its facts were asked for
            told = msgspec.msgpack.decode(order, type=Order)
            done, files[1] = self._site.do(told, model, residual)
            files[0] = None if done.blob is None else bytes(done.blob)
            return done.answer

        return _told(work), files[0], files[1]

    def _facts(self) -> Event:
        if self._site is None:
            settings, frozen = self._given
            self._site = _Opened(msgspec.json.decode(settings, type=RunSettings), frozen)
        import ray

        return replace(self._site.facts(), node=ray.get_runtime_context().get_node_id())


class _Opened:
    def __init__(self, settings: RunSettings, frozen: bytes | None) -> None:
        self._settings = replace(settings, device="cpu")
        self._task = task_of(settings)
        self._clients = Clients(self._task, settings)
        self._tests = test_data(self._task, settings, Once())
        self._folder = RunFolder(_own_folder())
        if frozen is not None:
            self._folder.frozen_path.write_bytes(frozen)
        self._trainer = Trainer(self._folder, self._task, self._settings)
        self._model: tuple[Digest, Path] | None = None

    def facts(self) -> SiteFacts:
        self._clients.refresh()
        return facts_of(self._settings, self._clients, self._tests)

    def do(
        self, order: Order, model: tuple[Digest, list[Any]], residual: bytes | None
    ) -> tuple[OrderDone, bytes | None]:
        """And what top-k has not sent."""
        match order:
            case TrainClient(base, seeding):
                self._fetch(self._folder.model_path(seeding.version), *model)
                kept = Residuals(self._folder.residuals_path(seeding.agent))
                position = seeding.position
                if residual is not None:
                    kept.unpack(position, residual, before=position)
                examples = self._clients.training[seeding.agent]
                update, blob = self._trainer.train(examples, base, seeding)
                left = kept.packed(position + update.batches)
                kept.forget()
                return OrderDone(ClientTrained(update=update), blob), left
            case MeasureBatch(path_there, what, name, batch, _):
                there = Path(path_there)
                path = self._folder.rounds_path / there.parent.name / there.name
                self._fetch(path, *model)
                if what == "tests":
                    parts: Mapping[str, Examples] = self._tests.get()
                else:
                    parts = self._clients.own("validation" if what == VALIDATION else "test")
                sums = self._trainer.evaluate(path, parts[name], batch)
                return OrderDone(BatchMeasured(sums=sums)), None
            case PersonaliseClient():
                raise AssertionError("not an order of a round")

    def _fetch(self, path: Path, digest: Digest, refs: list[Any]) -> None:
        """The new model has replaced the previous one."""
        if self._model == (digest, path):
            return
        import ray

        data: bytes = ray.get(refs[0])
        if hashlib.sha256(data).hexdigest() != digest:
            raise RunError("the cluster returned another model than it received")
        if self._model is not None:
            self._model[1].unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        self._model = digest, path


def _told(work: Callable[[], Event]) -> bytes:
    try:
        return msgspec.msgpack.encode(work())
    except (Exception, MemoryError) as error:
        failed = failure_of(error)
        message = f"node {socket.gethostname()}: {failed.message}"
        return msgspec.msgpack.encode(JobFailed(kind=failed.kind, message=message))


def _own_folder() -> Path:
    """It goes with this process, however that ends."""
    path = tempfile.mkdtemp(prefix="flctl-ray-")
    # Started twice over, so that the end of this process's children is not its end.
    with subprocess.Popen(
        ["/bin/sh", "-c", REMOVE, path], stdin=subprocess.PIPE, start_new_session=True
    ) as shell:
        _held.append(shell.stdin)
        shell.stdin = None
    return Path(path)


_held: list[Any] = []
"""Open as long as this process lives."""
