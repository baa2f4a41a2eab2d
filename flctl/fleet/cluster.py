"""`--engine ray`: the work of a virtual run on the nodes of an existing Ray cluster.

Each worker is an actor with one CPU (`--threads` of them), which opens the task and the data on its
node, and does one order at a time (`flctl.fleet.site`). One that dies, alone or with its node, is
replaced wherever the cluster has room. Nothing of the run is on the nodes: models go there, and
updates come back, so another run of the same seed has the same bytes on any cluster.
"""

import hashlib
import time
from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
from msgspec.structs import replace

from flctl.coordinator.store.folder import RunFolder
from flctl.errors import RunError, SettingsError, decoded, one_line
from flctl.files import explained
from flctl.fleet.clients import Clients
from flctl.fleet.processes import (
    POLL_S,
    BatchMeasured,
    ClientTrained,
    Died,
    Heard,
    MeasureBatch,
    Order,
    OrderDone,
    Shared,
    TrainClient,
)
from flctl.fleet.ray_cluster import connect, disconnect
from flctl.fleet.ray_worker import RayWorker
from flctl.fleet.site import SiteFacts, facts_of
from flctl.learning.examples import Examples
from flctl.learning.reading import Reading
from flctl.learning.residuals import Residuals
from flctl.learning.task import Task
from flctl.settings import RunSettings
from flctl.wire.messages import Digest
from flctl.worker.jobs import TRIES, JobFailed

ROOM_S = 600.0
"""How long the cluster may be without a single worker that is ready."""
KEPT = 2
"""Models in the cluster's memory: that of the round, and the one that is measured."""
_Told: TypeAlias = ClientTrained | BatchMeasured | SiteFacts | JobFailed
Said: msgspec.msgpack.Decoder[_Told] = msgspec.msgpack.Decoder(_Told)


class Cluster(Shared):
    """Workers of the run in `folder`: `--jobs` of them, or as many as the cluster has room for.
    Their nodes have to have what `clients` and `tests` have here."""

    def __init__(
        self,
        folder: RunFolder,
        task: Task,
        settings: RunSettings,
        clients: Clients,
        tests: Reading[dict[str, Examples]],
    ) -> None:
        expect_shareable(task)
        frozen = None if folder.frozen is None else _bytes_of(folder.frozen)
        connect(settings.ray_address)
        import ray

        self._folder, self._cpus = folder, settings.threads
        self._most = settings.jobs or None
        """Workers; None: as many as the cluster has room for."""
        self._facts = partial(facts_of, settings, clients, tests)
        self._given = msgspec.json.encode(settings), ray.put(frozen)
        self._actors: list[RayWorker] = []
        self._wanted: SiteFacts | None = None
        self._models: dict[str, tuple[Digest, list[Any]]] = {}
        self._size, self._failed_starts = 1, 0
        self._room_until = 0.0

    def renew(self) -> None:
        """The nodes read their data again, unless they are as they were."""
        if self._wanted is not None and self._wanted != (now := self._facts()):
            self._wanted = now
            for actor in self._actors:
                actor.ask()

    def close(self) -> None:
        for actor in self._actors:
            actor.end()
        self._actors.clear()
        disconnect()

    def _give(self, orders: Sequence[Order], waiting: deque[int]) -> None:
        self._grow(len(waiting))
        for actor in self._actors:
            if waiting and actor.idle:
                number = waiting.popleft()
                order = orders[number]
                actor.do(number, order, self._model(order), self._residual(order))

    def _listen(self) -> Iterator[tuple[int, Heard]]:
        import ray

        asked = {actor.answer: actor for actor in self._actors if actor.answer is not None}
        assert asked
        done, _ = ray.wait([*asked], num_returns=len(asked), timeout=0)
        if not done:
            done, _ = ray.wait([*asked], num_returns=1, timeout=POLL_S)
        for answer in done:
            actor = asked[answer]
            order, number, actor.answer = actor.order, actor.number, None
            try:
                told = ray.get(answer)
            except ray.exceptions.RayError as error:
                self._has_died(actor, error)
                if number is not None:
                    yield number, Died(_reason(error))
                continue
            actor.order = actor.number = None
            heard, blob, left = _read(told)
            if order is None or number is None:
                self._welcome(actor, heard)
            else:
                yield number, self._taken(order, heard, blob, left)
        if any(actor.ready for actor in self._actors):
            self._room_until = 0.0
        else:
            self._expect_room()

    def _grow(self, waiting: int) -> None:
        """As many workers as there is work for."""
        import ray

        starting = sum(not actor.ready for actor in self._actors)
        idle = sum(actor.idle for actor in self._actors)
        if (more := waiting - starting - idle) <= 0:
            return
        self._size = self._most or max(1, int(ray.cluster_resources().get("CPU", 1) // self._cpus))
        for _ in range(min(self._size - len(self._actors), more)):
            self._actors.append(RayWorker(self._given, self._cpus))

    def _welcome(self, actor: RayWorker, heard: _Told) -> None:
        """Raises RunError for a node where the same orders would have other answers."""
        if isinstance(heard, JobFailed):
            raise RunError(heard.message)
        if not isinstance(heard, SiteFacts):
            raise RunError("a worker of the cluster did not report its versions")
        self._wanted = self._wanted or self._facts()
        if different := self._wanted.different(heard):
            raise RunError(
                f"node {heard.host}: {different}; install the same on each node, with the data at "
                "the same path"
            )
        actor.ready, actor.node, self._failed_starts = True, heard.node, 0

    def _has_died(self, actor: RayWorker, error: Exception) -> None:
        """Perhaps with its node: idle ones there are given up too, before they get an order. Raises
        RunError where none starts."""
        import ray

        gone = [a for a in self._actors if a is actor or (a.idle and a.node == actor.node)]
        for each in gone:
            self._actors.remove(each)
            each.end()
        if actor.node:
            return
        self._failed_starts += 1
        unable = isinstance(error, ray.exceptions.RayTaskError)
        if unable or self._failed_starts >= TRIES * self._size:
            raise RunError(
                f"no worker starts on the cluster: {_reason(error)}; is the same flctl installed "
                "on each of its nodes?"
            )

    def _expect_room(self) -> None:
        now = time.monotonic()
        self._room_until = self._room_until or now + ROOM_S
        if now > self._room_until:
            raise RunError(
                f"no worker of the cluster is ready after {ROOM_S / 60:.0f} minutes: 'ray status' "
                f"says whether it has room for one of {self._cpus} CPU"
            )

    def _model(self, order: Order) -> tuple[Digest, list[Any]]:
        """Its digest, and where the cluster has it: it travels once to each node."""
        import ray

        if isinstance(order, TrainClient):
            path = self._folder.model_path(order.seeding.version)
        else:
            assert isinstance(order, MeasureBatch)
            path = Path(order.model)
        if str(path) not in self._models:
            data = _bytes_of(path)
            while len(self._models) >= KEPT:
                del self._models[next(iter(self._models))]
            self._models[str(path)] = hashlib.sha256(data).hexdigest(), [ray.put(data)]
        return self._models[str(path)]

    def _residual(self, order: Order) -> bytes | None:
        if not isinstance(order, TrainClient):
            return None
        return self._kept(order).packed(order.seeding.position)

    def _kept(self, order: TrainClient) -> Residuals:
        return Residuals(self._folder.residuals_path(order.seeding.agent))

    def _taken(self, order: Order, heard: _Told, blob: bytes | None, left: bytes | None) -> Heard:
        """An answer, with its files. Raises RunError for one that does not fit its order."""
        match order, heard:
            case _, JobFailed():
                return heard
            case MeasureBatch(), BatchMeasured():
                return OrderDone(heard)
            case TrainClient(_, seeding), ClientTrained(update) if blob is not None:
                told = update.agent, update.round, update.version, update.sequence, update.blob
                digest = hashlib.sha256(blob).hexdigest()
                ours = seeding.agent, seeding.round, seeding.version, seeding.sequence, digest
                if told == ours:
                    if left is not None:
                        position = seeding.position + update.batches
                        self._kept(order).unpack(position, left, before=seeding.position)
                    update = replace(update, size=len(blob), at=round(time.time(), 3))
                    return OrderDone(ClientTrained(update=update), memoryview(blob))
        raise RunError(f"{order}: the answer of the cluster is for another order")


def expect_shareable(task: Task) -> None:
    """Raises SettingsError for a task whose tensors must not be sent."""
    if task.private:
        raise SettingsError(
            f"engine ray: the private tensors of task '{task.name}' stay on this machine; use "
            "--engine processes"
        )


def _bytes_of(path: Path) -> bytes:
    with explained(path, "read the model"):
        return path.read_bytes()


def _read(told: Any) -> tuple[_Told, bytes | None, bytes | None]:
    """An answer, and its files. Raises RunError for what is none."""
    match told:
        case bytes(answer), bytes() | None as blob, bytes() | None as left:
            with decoded(RunError, "the answer of a worker of the cluster"):
                return Said.decode(answer), blob, left
    raise RunError("a worker of the cluster sent an invalid answer")


def _reason(error: Exception) -> str:
    """What ray says of the end of a worker fills a page."""
    cause = getattr(error, "cause", None)
    text = cause if isinstance(cause, Exception) else error
    return one_line(" ".join(str(text).split()), 400)
