"""A supervisor with everything around it played by the test: network, worker, machine, clock."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from memory_network import MemoryNetwork

from flctl.agent.config import AgentConfig
from flctl.agent.state import AgentState
from flctl.agent.supervisor import Supervisor
from flctl.core.metrics import from_confusion
from flctl.settings import LocalTraining
from flctl.transport.blobs import BlobStore
from flctl.transport.channel import Frame
from flctl.transport.credit import CLOSING_OFFSET
from flctl.wire import framing
from flctl.wire.messages import (
    CHUNK_BYTES,
    Chunk,
    Claim,
    Coded,
    DatasetInfo,
    Device,
    Evaluate,
    Fetch,
    Heartbeat,
    HeartbeatAck,
    Hello,
    Message,
    Model,
    Sums,
    Telemetry,
    Train,
    Welcome,
    WorkKey,
)
from flctl.worker.jobs import AnyEvent, AnyJob, Describe, Described, JobFailed, Scored, Trained

KEY = "k" * 40
MODEL = os.urandom(2 * CHUNK_BYTES + 1000)
SUMS = from_confusion(0.5, [[5, 1], [1, 3]])

M = TypeVar("M", bound=Message)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def memfd(data: bytes) -> int:
    fd = os.memfd_create("test")
    os.write(fd, data)
    return fd


class FakeWorker:
    """Notes its jobs and the models that came along; the test says how they end."""

    def __init__(self, rig: "Rig") -> None:
        self._rig = rig
        self._told: list[tuple[AnyEvent, int | None]] = []
        self.busy = False
        self.pid: int | None = None
        self.idle_since: float | None = None
        self.jobs: list[AnyJob] = []
        self.models: list[bytes | None] = []
        self.cancelled = 0
        self.stopped = 0

    def submit(self, job: AnyJob, fd: int | None = None) -> None:
        assert not self.busy
        self.busy, self.pid, self.idle_since = True, os.getpid(), None
        self.jobs.append(job)
        self.models.append(None if fd is None else os.pread(fd, 1 << 24, 0))
        if isinstance(job, Describe) and self._rig.found is not None:
            self.end(self._rig.found)

    def end(self, event: AnyEvent, fd: int | None = None) -> None:
        self._told.append((event, fd))

    def die(self) -> None:
        self.end(JobFailed(kind="worker died", message="the worker was killed (signal 9 SIGKILL)"))

    def train(self, data: bytes = b"update") -> None:
        event = Trained(
            blob=digest(data),
            size=len(data),
            claim=Claim(examples=8, batches=2, loss=0.5, last_loss=0.4, seconds=1.0),
            available=100,
        )
        self.end(event, memfd(data))

    def score(self, **parts: Sums) -> None:
        self.end(Scored(parts=parts))

    def events(self) -> list[tuple[AnyEvent, int | None]]:
        told, self._told = self._told, []
        for event, _ in told:
            if type(event).__name__ != "Stepped":
                self.busy, self.idle_since = False, self._rig.now
        return told

    def fileno(self) -> int | None:
        return None

    def cancel(self) -> None:
        self.cancelled += 1
        self.stop()

    def stop(self) -> None:
        self.stopped += 1
        self._told.clear()
        self.busy, self.pid, self.idle_since = False, None, None


class FakeMachine:
    def device(self, torch: str | None = None, cuda: bool = False) -> Device:
        return Device(kind="test", arch="any", cores=1, memory_bytes=1, torch=torch, cuda=cuda)

    def read(self, uptime_s: float, worker: int | None = None) -> Telemetry:
        return Telemetry(uptime_s=uptime_s, temperature_c=41.5)


class Rig:
    """The coordinator is the test: `heard` are the agent's messages, `say` answers."""

    found: Described | None = Described(
        datasets=(DatasetInfo("default", "ecg", examples=100, held_out=20, data="d" * 64),),
        torch="2.9.1",
        cuda=False,
    )

    def __init__(self, folder: Path, found: Described | None = found, **config: Any) -> None:
        self.now = 1000.0
        self.found = found
        self.network = MemoryNetwork()
        self.listed = True
        self.hub = self.network.hub(lambda _: self.listed)
        self.link = self.network.link(KEY)
        self.worker = FakeWorker(self)
        self.store = BlobStore(1 << 26, folder / "spill")
        self.state = AgentState(folder / "state")
        self.supervisor = Supervisor(
            config=AgentConfig(
                coordinator="pc:7700", server_key="s" * 40, state=folder / "state", **config
            ),
            link=self.link,
            worker=self.worker,
            store=self.store,
            machine=FakeMachine(),
            state=self.state,
            public_key=KEY,
            tasks={"ecg": "a" * 64},
            clock=lambda: self.now,
        )
        self.peer = b""
        self.echoes = True
        self.heard: list[Message] = []
        self.payloads: dict[int, bytes] = {}
        self._decode = framing.to_coordinator()

    def close(self) -> None:
        self.supervisor.close()
        self.state.close()

    def step(self, seconds: float = 0.0) -> float:
        """Let time pass and the agent act; hear what it says."""
        self.now += seconds
        wait = self.supervisor.step(self.now)
        self.listen()
        return wait

    def listen(self) -> None:
        for incoming in self.hub.receive():
            _, message, payload = self._decode(incoming.frames)
            self.peer = incoming.peer
            self.heard.append(message)
            if isinstance(message, Heartbeat) and self.echoes:
                self.hub.send(self.peer, framing.encode(HeartbeatAck(sequence=message.sequence)))
            if isinstance(message, Chunk) and payload is not None:
                self.payloads[message.offset] = bytes(payload)

    def take(self, kind: type[M]) -> list[M]:
        """The messages of this kind since the last call; all others stay."""
        found = [m for m in self.heard if isinstance(m, kind)]
        self.heard = [m for m in self.heard if not isinstance(m, kind)]
        return found

    def say(self, message: Message, payload: Frame | None = None) -> None:
        self.send(framing.encode(message, payload))

    def send(self, frames: Sequence[Frame]) -> None:
        """To the agent, which then acts."""
        self.hub.send(self.peer, frames)
        self.step()

    def welcome(self) -> None:
        """Until the agent is ready and everything about it is heard."""
        self.step()
        for _ in range(3):
            if self.take(Hello):
                self.say(Welcome(name="pi-01", version="1", heartbeat_s=5.0))
            self.step()
        self.heard.clear()

    def serve(self, data: bytes = MODEL) -> list[Fetch]:
        """Answer the agent's requests for a model until it asks for no more."""
        served: list[Fetch] = []
        while fetches := [f for f in self.take(Fetch) if f.offset != CLOSING_OFFSET]:
            for fetch in fetches:
                chunk = Chunk(blob=fetch.blob, offset=fetch.offset)
                self.say(chunk, data[fetch.offset : fetch.offset + fetch.length])
            served += fetches
        return served

    def begin(self, message: Train | Evaluate, data: bytes = MODEL) -> None:
        """Give an order and the model for it."""
        self.say(message)
        self.step()
        self.serve(data)
        self.step()


def key(round_id: int = 1, run: str = "run-a", model: bytes = MODEL) -> WorkKey:
    return WorkKey(run=run, version=round_id - 1, base=digest(model), sequence=round_id)


def whole(model: bytes, size: int | None = None) -> Model:
    return Model(shared=Coded(blob=digest(model), size=len(model) if size is None else size))


def train(
    round_id: int = 1,
    run: str = "run-a",
    model: bytes = MODEL,
    model_size: int | None = None,
    **changes: Any,
) -> Train:
    message = Train(
        key=key(round_id, run, model),
        model=whole(model, model_size),
        task="ecg",
        dataset="default",
        training=LocalTraining(),
        seed=1,
        position=0,
    )
    return msgspec.structs.replace(message, **changes)


def evaluate(
    round_id: int = 1, model: bytes = MODEL, model_size: int | None = None, **changes: Any
) -> Evaluate:
    message = Evaluate(
        key=msgspec.structs.replace(key(round_id, model=model), version=round_id, sequence=0),
        model=whole(model, model_size),
        task="ecg",
        dataset="default",
        batch_size=100,
        parts=("test",),
    )
    return msgspec.structs.replace(message, **changes)
