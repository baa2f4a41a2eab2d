"""A real agent process: CURVE sockets, its own worker, signals."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TypeVar

import psutil
import pytest
from agent_rig import digest

from flctl.agent.main import Stop, enabled_tasks, stop_asked
from flctl.errors import UnknownTask
from flctl.settings import LocalTraining
from flctl.transport.keypair import KeyPair
from flctl.transport.zeromq import ZeroMqHub
from flctl.wire import framing
from flctl.wire.messages import (
    Accepted,
    Chunk,
    Coded,
    Fetch,
    Goodbye,
    Heartbeat,
    HeartbeatAck,
    Hello,
    Message,
    Model,
    Progress,
    Train,
    UpdateReady,
    Welcome,
    WorkKey,
)
from flctl.worker.jobs import Initialise
from flctl.worker.process import WorkerProcess

M = TypeVar("M", bound=Message)
LIMIT_S = 240.0
AGENT = """
import logging, sys
from pathlib import Path
from flctl.agent.config import AgentConfig
from flctl.agent.main import run_agent
from flctl.wire.messages import Shard
from flctl.worker.jobs import DataSource
logging.basicConfig(level=logging.INFO)
shard = DataSource(shard=Shard(index=0, of=16, partition="record"))
config = AgentConfig(coordinator=sys.argv[1], server_key=sys.argv[2], state=Path(sys.argv[3]),
    name="pi-01", datasets={"default": shard}, tasks=("ecg",), threads=1, device="cpu")
run_agent(config, exit_with_parent=True)
heavy = [name for name in ("torch", "numpy") if name in sys.modules]
print("loaded:", *heavy)
"""


class Coordinator:
    """Just enough of one to welcome an agent and give it work."""

    def __init__(self) -> None:
        self.keys = KeyPair.make()
        self.hub = ZeroMqHub("127.0.0.1:0", self.keys, lambda _: True)
        self.peer = b""
        self.model = b""
        self._decode = framing.to_coordinator()

    def wait_for(self, kind: type[M], fits: Callable[[M], bool] = lambda _: True) -> M:
        """Serve the agent until it says this."""
        end = time.monotonic() + LIMIT_S
        while time.monotonic() < end:
            self.hub.wait(0.2)
            for incoming in self.hub.receive():
                self.peer = incoming.peer
                _, message, _ = self._decode(incoming.frames)
                self._answer(message)
                if isinstance(message, kind) and fits(message):
                    return message
        raise AssertionError(f"no {kind.__name__} has come")

    def say(self, message: Message, payload: bytes | None = None) -> None:
        self.hub.send(self.peer, framing.encode(message, payload))

    def _answer(self, message: Message) -> None:
        match message:
            case Hello():
                self.say(Welcome(name="pi-01", version="1", heartbeat_s=0.5))
            case Heartbeat():
                self.say(HeartbeatAck(sequence=message.sequence))
            case Fetch() if message.offset < len(self.model):
                data = self.model[message.offset : message.offset + message.length]
                self.say(Chunk(blob=message.blob, offset=message.offset), data)


@pytest.fixture
def coordinator() -> Generator[Coordinator, None, None]:
    made = Coordinator()
    yield made
    made.hub.close()


@pytest.fixture
def agent(coordinator: Coordinator, tmp_path: Path) -> Generator[subprocess.Popen[str], None, None]:
    arguments = [coordinator.hub.endpoint or "", coordinator.keys.public, str(tmp_path / "agent")]
    process = subprocess.Popen(
        [sys.executable, "-c", AGENT, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield process
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()


@pytest.fixture(scope="module")
def model() -> bytes:
    """The first model of an ECG run."""
    worker = WorkerProcess()
    worker.submit(Initialise(given={"task": "ecg"}, where="test"))
    end = time.monotonic() + LIMIT_S
    while time.monotonic() < end:
        for _, fd in worker.events():
            worker.stop()
            assert fd is not None
            data = os.pread(fd, 1 << 24, 0)
            os.close(fd)
            return data
        time.sleep(0.02)
    raise AssertionError("no model")


def order(model: bytes, epochs: int) -> Train:
    return Train(
        key=WorkKey(run="run-a", version=0, base=digest(model), sequence=1),
        model=Model(shared=Coded(blob=digest(model), size=len(model))),
        task="ecg",
        dataset="default",
        training=LocalTraining(epochs=epochs),
        seed=1,
        position=0,
    )


def test_an_agent_trains_and_leaves_in_order(
    coordinator: Coordinator, agent: subprocess.Popen[str], model: bytes, tmp_path: Path
) -> None:
    """Hello, data, training, offer, SIGTERM, goodbye, exit status 0.

    Its supervisor has loaded neither torch nor numpy and takes less than 60 MB.
    """
    hello = coordinator.wait_for(Hello, lambda hello: bool(hello.datasets))
    assert hello.datasets[0].examples > 0 and hello.device.torch
    coordinator.model = model
    coordinator.say(order(model, epochs=1))
    offer = coordinator.wait_for(UpdateReady)
    assert offer.claim.batches > 0
    coordinator.say(Accepted(key=offer.key))
    beat = coordinator.wait_for(Heartbeat, lambda beat: beat.state == "ready")
    assert beat.rtt_ms is not None and beat.telemetry.memory_total_bytes
    assert psutil.Process(agent.pid).memory_info().rss < 60e6
    assert (tmp_path / "agent" / "agent.key").stat().st_mode & 0o777 == 0o600
    agent.send_signal(signal.SIGTERM)
    coordinator.wait_for(Goodbye)
    out, _ = agent.communicate(timeout=10)
    assert agent.returncode == 0 and out.split() == ["loaded:"]


def test_the_worker_of_a_killed_agent_ends(
    coordinator: Coordinator, agent: subprocess.Popen[str], model: bytes
) -> None:
    """kill -9 of the agent in the middle of training leaves nothing behind."""
    coordinator.wait_for(Hello, lambda hello: bool(hello.datasets))
    coordinator.model = model
    coordinator.say(order(model, epochs=10_000))
    coordinator.wait_for(Progress)
    (worker,) = psutil.Process(agent.pid).children()
    agent.kill()
    agent.wait()
    worker.wait(timeout=2.0)


def test_the_agent_ends_with_whoever_holds_its_standard_input(
    coordinator: Coordinator, agent: subprocess.Popen[str]
) -> None:
    """As for the local agents of `flctl train --local`; while it looks at its data, too."""
    coordinator.wait_for(Heartbeat, lambda beat: beat.state == "starting")
    assert agent.stdin is not None
    agent.stdin.close()
    coordinator.wait_for(Goodbye)
    assert agent.wait(timeout=10) == 0


def test_signals_end_a_wait_for_the_agent() -> None:
    """SIGTERM is noted and wakes up; afterwards the old handlers are back."""
    before = signal.getsignal(signal.SIGTERM)
    with stop_asked(exit_with_parent=False) as stop:
        assert isinstance(stop, Stop) and not stop.asked()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked()
    assert signal.getsignal(signal.SIGTERM) is before


def test_all_installed_tasks_are_enabled_unless_some_are_named() -> None:
    """A name that is not installed is an error."""
    assert {"ecg", "mnist"} <= enabled_tasks(()).keys()
    assert list(enabled_tasks(("mnist",))) == ["mnist"]
    with pytest.raises(UnknownTask):
        enabled_tasks(("nothing",))
