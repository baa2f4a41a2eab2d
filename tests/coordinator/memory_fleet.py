"""A whole fleet in one process: the real coordinator and the real supervisors, joined by the
in-memory channel, with a passed-in clock. Only learning is a toy: numpy, no torch.

An update of the toy is a pure function of (model, agent, round, seed), so that two runs
with the same participants must end in the same bytes.
"""

import hashlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np
from memory_network import MemoryNetwork

from flctl.agent.config import AgentConfig
from flctl.agent.log import AgentLog
from flctl.agent.state import AgentState, saved_log
from flctl.agent.supervisor import Supervisor
from flctl.coordinator.background import InlineBackground
from flctl.coordinator.front.operators import Control
from flctl.coordinator.front.service import Coordinator
from flctl.coordinator.store.resume import FirstModel
from flctl.core.history import History
from flctl.core.metrics import DEFAULT_METRICS, from_confusion
from flctl.core.randomness import derive
from flctl.core.stream import Published
from flctl.learning.compression import save_update
from flctl.settings import RunSettings, parse
from flctl.transport.blobs import BlobStore, is_in_memory
from flctl.transport.keypair import KeyPair
from flctl.transport.keys import Keyring
from flctl.wire.messages import (
    Begun,
    Claim,
    DatasetInfo,
    Device,
    Limits,
    Measures,
    Sums,
    Telemetry,
)
from flctl.wire.parameters import ParameterFile, dump
from flctl.worker.jobs import (
    AnyEvent,
    AnyJob,
    Describe,
    Described,
    EvaluateJob,
    JobFailed,
    Personal,
    PersonaliseJob,
    Scored,
    Trained,
    TrainJob,
)

MEASURES = Measures(metrics=DEFAULT_METRICS, primary="loss", classes=2)
DIGEST = "d" * 64
STEP_S = 0.1
BATCHES = 4
BIG = 700_000
"""Bytes of the toy's large tensor: three chunks on the wire."""


def toy_model(seed: int) -> dict[str, tuple[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return {
        "weight": ("F32", rng.standard_normal(BIG // 4).astype(np.float32)),
        "bias": ("F32", np.zeros(3, np.float32)),
        "steps": ("I64", np.zeros((), np.int64)),
    }


def toy_update(model: dict[str, np.ndarray], job: TrainJob) -> dict[str, tuple[str, np.ndarray]]:
    at = job.seeding
    shift = derive(at.seed, at.agent, at.round, at.position) % 1000 / 1000
    return {
        "weight": ("F32", model["weight"] + np.float32(shift)),
        "bias": ("F32", model["bias"] - np.float32(shift)),
        "steps": ("I64", model["steps"] + 4),
    }


def read_tensors(fd: int) -> dict[str, np.ndarray]:
    file = ParameterFile(fd, "test")
    return {spec.name: file.read(spec).reshape(spec.shape) for spec in file.specs}


class ToyEvaluator:
    """Plays the coordinator's worker process."""

    def __init__(self) -> None:
        self.begun: Begun | None = None
        found = from_confusion(0.5, [[5, 1], [0, 4]])
        self.tests: dict[str, Sums] = {"test": found, "validation": found}
        self.given: dict[str, Any] = {}

    def initialise(self, given: dict[str, Any], where: str) -> FirstModel:
        settings = parse({"partition": "iid", **given}, where)
        fd = os.memfd_create("first")
        digest, size = dump(fd, toy_model(settings.seed), {"task": settings.task})
        return FirstModel(settings, DIGEST, MEASURES, digest, size, fd, self.begun)

    def evaluate(self, model: Path, settings: RunSettings) -> dict[str, Sums]:
        with model.open("rb") as file:
            read_tensors(file.fileno())
        return self.tests

    def rest(self) -> None:
        pass

    def close(self) -> None:
        pass


class ToyWorker:
    """Plays an agent's worker process; takes `ticks` calls of `events` for a job."""

    def __init__(self, agent: "ToyAgent") -> None:
        self._agent = agent
        self.left = 0
        """Calls of `events` until the job is done."""
        self._job: AnyJob | None = None
        self._model: dict[str, np.ndarray] = {}
        self.pid: int | None = None
        self.idle_since: float | None = None

    @property
    def busy(self) -> bool:
        return self._job is not None

    def submit(self, job: AnyJob, fd: int | None = None) -> None:
        self._job = job
        self.left = 2 if isinstance(job, Describe) else self._agent.ticks
        if fd is not None:
            self._model = read_tensors(fd)
        if isinstance(job, TrainJob):
            self._agent.trained.append((job.seeding.round, job.seeding.position))
        self._agent.personalised += isinstance(job, PersonaliseJob)

    def events(self) -> list[tuple[AnyEvent, int | None]]:
        if self._job is None:
            return []
        if self.left > 0:
            self.left -= 1
            return []
        job, self._job = self._job, None
        return [self._agent.do(job, self._model)]

    def fileno(self) -> int | None:
        return None

    def cancel(self) -> None:
        self._job = None

    def stop(self) -> None:
        self._job = None


class ToyMachine:
    def device(self, torch: str | None = None, cuda: bool = False) -> Device:
        return Device(kind="toy", arch="any", cores=1, memory_bytes=1, torch=torch, cuda=cuda)

    def read(self, uptime_s: float, worker: int | None = None) -> Telemetry:
        return Telemetry(uptime_s=uptime_s)


class ToyAgent:
    """One agent. `do` may be replaced by a test, to make it misbehave."""

    tasks: ClassVar[dict[str, str]] = {"toy": DIGEST}

    def __init__(
        self,
        fleet: "MemoryFleet",
        name: str,
        examples: int = 10,
        held_out: int = 0,
        role: str = "train",
        keys: KeyPair | None = None,
        token: str | None = None,
        limits: Limits | None = None,
        validation: int = 0,
        labels: dict[str, str] | None = None,
    ) -> None:
        self.limits, self.labels = limits or Limits(), labels or {}
        self.fleet, self.name = fleet, name
        self.keys = keys or KeyPair.make()
        self.examples, self.held_out, self.role = examples, held_out, role
        self.validation = validation
        self.personalised = 0
        """Orders to personalise that were begun."""
        self.epochs = 2
        """Of its own model; 0: it is not kept."""
        self.trained: list[tuple[int, int]] = []
        """(round, position) of every training that was begun."""
        self.ticks = 2
        self.token = token
        self.shares_log = True
        self.folder = self.fleet.folder / f"{self.name}-{id(self)}"
        self.start()

    def start(self) -> None:
        """Begin, or begin again after a power cut: what was in memory is lost."""
        folder = self.folder
        self.state = AgentState(folder)
        self.link = self.fleet.network.link(self.keys.public)
        self.alive = True
        config = AgentConfig(
            coordinator="memory:1",
            server_key="k" * 40,
            state=folder,
            name=self.name,
            role=self.role,
            join_token=self.token,
            limits=self.limits,
            labels=self.labels,
        )
        self.worker = ToyWorker(self)
        self.log = AgentLog(saved_log(folder), lambda: self.fleet.wall)
        self.supervisor = Supervisor(
            config=config,
            link=self.link,
            worker=self.worker,
            store=BlobStore(64 << 20, folder / "blobs"),
            machine=ToyMachine(),
            state=self.state,
            public_key=self.keys.public,
            tasks=self.tasks,
            clock=self.fleet.clock,
            log=self.log if self.shares_log else None,
        )

    def says(self, text: str, level: int = logging.INFO) -> None:
        """A line of its log."""
        self.log.handle(logging.LogRecord("test", level, "file", 1, text, (), None))

    def kill(self) -> None:
        """The process is gone at once; its connection breaks."""
        self.link.close()
        self.state.close()
        self.alive = False

    def step(self) -> None:
        if self.alive:
            self.supervisor.step(self.fleet.clock())

    def do(self, job: AnyJob, model: dict[str, np.ndarray]) -> tuple[AnyEvent, int | None]:
        match job:
            case Describe():
                info = DatasetInfo(
                    name="default",
                    task="toy",
                    examples=self.examples,
                    validation=self.validation,
                    held_out=self.held_out,
                )
                return Described(datasets=(info,), torch="2", cuda=False), None
            case TrainJob() if job.training.compression != "none":
                return self.compressed(toy_update(model, job), model, job)
            case TrainJob():
                return self.deliver(toy_update(model, job))
            case EvaluateJob():
                sums = from_confusion(0.25, [[self.held_out, 0], [0, 0]])
                return Scored(parts=dict.fromkeys(job.parts, sums)), None
            case PersonaliseJob():
                sizes = {"validation": self.validation, "test": self.held_out}
                shared, own = (
                    {part: from_confusion(loss, [[n, 0], [0, 0]]) for part, n in sizes.items() if n}
                    for loss in (0.5, 0.25)
                )
                return Personal(epochs=self.epochs, shared=shared, own=own), None
        return JobFailed(kind="error", message="no such job"), None

    def compressed(
        self,
        tensors: dict[str, tuple[str, np.ndarray]],
        model: dict[str, np.ndarray],
        job: TrainJob,
    ) -> Any:
        """As a worker does it, which also keeps what it has not sent."""
        fd = os.memfd_create("update")
        before = {name: (tensors[name][0], array) for name, array in model.items()}
        saved = save_update(
            fd, before, tensors, job.training, {"task": "toy"}, job.seeding,
            batches=BATCHES, residuals=Path(job.residuals), buffers=(),
        )  # fmt: skip
        return self.delivered(fd, saved.blob, saved.size, compression_error=saved.error)

    def deliver(self, tensors: dict[str, tuple[str, np.ndarray]], **changes: Any) -> Any:
        fd = os.memfd_create("update")
        return self.delivered(fd, *dump(fd, tensors, {"task": "toy"}), **changes)

    def delivered(self, fd: int, digest: str, size: int, /, **changes: Any) -> Any:
        claim = Claim(examples=self.examples, batches=BATCHES, loss=0.5, last_loss=0.4, seconds=0.1)
        said = {n: changes.pop(n) for n in Claim.__struct_fields__ if n in changes}
        trained = Trained(
            blob=digest,
            size=size,
            available=self.examples,
            claim=msgspec.structs.replace(claim, **said),
        )
        return msgspec.structs.replace(trained, **changes), fd


class MemoryFleet:
    def __init__(self, agents: int | Iterable[str] = 3, seed: int = 0) -> None:
        self._others = _in_memory()
        self._temporary = tempfile.TemporaryDirectory()
        self.folder = Path(self._temporary.name)
        self.state = self.folder / "state"
        self.state.mkdir()
        self.now = 1000.0
        self.wall = 1.7e9
        self.network = MemoryNetwork(seed)
        self.events: list[dict[str, Any]] = []
        self.agents: dict[str, ToyAgent] = {}
        self.evaluator = ToyEvaluator()
        self.coordinator: Coordinator | None = None
        self.keyring = Keyring(self.state / "keys", lambda: self.wall)
        self.start_coordinator()
        names = [f"pi-{n:02d}" for n in range(1, agents + 1)] if isinstance(agents, int) else agents
        for name in names:
            self.add(name)

    def clock(self) -> float:
        return self.now

    def add(self, name: str, enrol: bool = True, **options: Any) -> ToyAgent:
        agent_keys = options.pop("keys", None) or KeyPair.make()
        if enrol:
            role = "evaluate" if options.get("role") == "evaluate" else "agent"
            self.keyring.add(name, agent_keys.public, role)
        agent = ToyAgent(self, name, keys=agent_keys, **options)
        self.agents[name] = agent
        return agent

    def start_coordinator(self, state: Path | None = None) -> Coordinator:
        """A new coordinator on the state folder; goes on with an interrupted run."""
        if state is not None:
            self.state = state
            self.keyring = Keyring(state / "keys", lambda: self.wall)
        self.hub = self.network.hub(self.keyring.authorise)
        self.disk = InlineBackground()
        self.coordinator = Coordinator(
            self.state,
            self.hub,
            self.keyring,
            self.evaluator,
            self.disk,
            InlineBackground(),
            self.clock,
            lambda: self.wall,
        )
        self.control = Control(self.coordinator, "memory:1", self.clock)
        self.coordinator.control = self.control
        self.coordinator.watchers.append(self.note)
        self.coordinator.runs.resume_interrupted()
        return self.coordinator

    def note(self, told: Published) -> None:
        self.events.append(told.plain())

    def kill_coordinator(self) -> None:
        """As by kill -9: nothing is tidied up but what the kernel does."""
        assert self.coordinator is not None
        self.coordinator.runs.abandon()
        self.coordinator.agents.serving.close()
        self.hub.close()
        self.coordinator = None

    def start_run(self, **given: Any) -> str:
        """Begin a run of the toy task over all agents by default; its name."""
        settings = {"task": "toy", "rounds": 3, "quorum": 1.0, **given}
        outcome: list[Any] = []

        def done(run: str | None, error: BaseException | None) -> None:
            outcome.append(error if run is None else run)

        assert self.coordinator is not None
        self.coordinator.runs.start(settings, "test", "fleet", done)
        self.until(lambda: bool(outcome))
        if isinstance(outcome[0], BaseException):
            raise outcome[0]
        return outcome[0]

    def step(self, seconds: float = STEP_S) -> None:
        self.now += seconds
        self.wall += seconds
        self.network.step()
        if self.coordinator is not None:
            self.coordinator.step()
        for agent in list(self.agents.values()):
            agent.step()

    def until(self, condition: Callable[[], bool], within_s: float = 300.0) -> None:
        end = self.now + within_s
        while not condition():
            assert self.now < end, f"not within {within_s} s; last events: {self.events[-5:]}"
            self.step()

    def finish(self, within_s: float = 900.0) -> History:
        """Let the run end; its history."""
        self.until(
            lambda: self.coordinator is not None and self.coordinator.training is None, within_s
        )
        return self.history()

    def history(self) -> History:
        from flctl.coordinator.store.folder import all_runs

        return list(all_runs(self.state))[-1].history()

    def named(self, event: str) -> list[dict[str, Any]]:
        return [found for found in self.events if found["event"] == event]

    def status(self, name: str) -> dict[str, Any]:
        from flctl.coordinator.front.views import agent_status

        assert self.coordinator is not None
        roster = self.coordinator.roster
        held = name in roster.cordoned
        return agent_status(roster.members[name], self.now, held, labelling=roster.labels)

    def close(self) -> None:
        for agent in self.agents.values():
            if agent.alive:
                agent.kill()
        if self.coordinator is not None:
            self.kill_coordinator()
        for fd in _in_memory() - self._others:  # as the kernel does when a process ends
            os.close(fd)
        self._temporary.cleanup()


def _in_memory() -> set[int]:
    """This process's descriptors of files in memory."""
    return {int(fd.name) for fd in Path("/proc/self/fd").iterdir() if is_in_memory(int(fd.name))}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
