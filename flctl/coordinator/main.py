"""Puts a coordinator together from its real parts: sockets, threads, a worker process."""

import contextlib
import logging
import resource
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from flctl.coordinator.alerts.alarms import Alarms
from flctl.coordinator.alerts.settings import settings_of
from flctl.coordinator.background import ThreadBackground
from flctl.coordinator.front.lives import Lives
from flctl.coordinator.front.operators import Control
from flctl.coordinator.front.rotating import Rotating
from flctl.coordinator.front.service import HEARTBEAT_S, Coordinator
from flctl.coordinator.front.token_folder import TokenFolder
from flctl.coordinator.run.evaluator import WorkerEvaluator
from flctl.coordinator.store.audit import local_actor
from flctl.coordinator.trends.trends import Trends
from flctl.files import Lock, make_folder
from flctl.transport.addresses import LOCK
from flctl.transport.gate import Gate
from flctl.transport.health import HealthPort
from flctl.transport.keys import Keyring
from flctl.transport.ledger import shares_of
from flctl.transport.zeromq import ZeroMqHub
from flctl.wire.messages import Deal

logger = logging.getLogger(__name__)


def make_coordinator(
    state: Path,
    keyring: Keyring,
    bind: str,
    control: Path | None = None,
    heartbeat_s: float = HEARTBEAT_S,
    test_data: Sequence[Path] = (),
) -> tuple[Coordinator, str]:
    """A coordinator that listens on `bind` (HOST:PORT, 0 for any free port); its address.

    `control` is the folder whose sockets for operators on this machine and for `flctl health`
    are opened; a coordinator without it is embedded in a run of this process. `test_data` have
    the test data that remote operators may name.
    Raises StateError when the address is taken.
    """
    allow_many_connections()
    gate = Gate()
    shares = shares_of(keyring.role_of)
    hub = ZeroMqHub(bind, keyring.server, keyring.authorise, control, gate, shares)
    evaluator = WorkerEvaluator()
    coordinator = Coordinator(
        state,
        hub,
        keyring,
        evaluator,
        disk=ThreadBackground("disk", hub.wake),
        thinking=ThreadBackground("thinking", hub.wake),
        heartbeat_s=heartbeat_s,
        health=HealthPort(control, "coordinator") if control is not None else None,
        gate=gate,
        embedded=control is None,
    )
    assert hub.endpoint is not None
    endpoint = hub.endpoint

    def new_key() -> None:
        if coordinator.invitation is not None:
            coordinator.invitation.write_key()

    agents = coordinator.agents
    agents.rotating = Rotating(
        keyring.server_keys, hub, agents.peers, agents.roster, agents.enrolled, new_key
    )
    looking = ThreadBackground("looking", hub.wake)
    coordinator.control = Control(coordinator, endpoint, looking=looking, test_data=test_data)
    return coordinator, endpoint


def allow_many_connections() -> None:
    """As many open files as this account may have at all: each agent's connection is two, and a
    usual 1,024 would be used up by some hundred agents, or by one stranger."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def run_coordinator(
    state: Path,
    bind: str,
    on_ready: Callable[[str, str], None] = lambda *_: None,
    heartbeat_s: float = HEARTBEAT_S,
    invite: Path | None = None,
    deal: Deal | None = None,
    test_data: Sequence[Path] = (),
    min_participants: int = 1,
    settings: Path | None = None,
) -> None:
    """Be the coordinator of `state` until SIGTERM or SIGINT.

    Agents send a heartbeat every `heartbeat_s` seconds; those that share the folder `invite`
    can join, and get shards of `deal`. Remote operators name test data in `test_data`. No round
    of fewer than `min_participants` agents is committed. `settings` is its TOML file, by default
    the one in `state`, if it is there.

    `on_ready` gets the address and the server's public key. A run that was in progress
    when it last stopped continues. Raises FlctlError.
    """
    make_folder(state)
    with contextlib.ExitStack() as stack:
        lock = Lock(state / LOCK, f"{state}: a coordinator already uses this folder")
        stack.callback(lock.release)
        chosen = settings_of(state, settings)
        keyring = Keyring(state / "keys", time.time)
        coordinator, endpoint = make_coordinator(
            state, keyring, bind, state, heartbeat_s, test_data
        )
        coordinator.runs.min_participants = min_participants
        coordinator.alarms = Alarms(
            state, chosen.alerts, coordinator.roster, coordinator.agents.enrolled,
            coordinator.runs.status, keyring.open_tokens, coordinator.gate,
        )  # fmt: skip
        coordinator.trends = Trends(
            state, coordinator.roster, coordinator.runs.status, coordinator.gate
        )
        coordinator.agents.lives = Lives(state, coordinator.roster, coordinator.gate)
        if invite is not None:
            who, args = local_actor(), {"folder": str(invite)}
            with coordinator.audit.action(who, "coordinator --invite", args) as came:
                coordinator.invitation = TokenFolder(invite, keyring, deal)
                came["token"] = coordinator.invitation.token_id

        def stop(number: int, _: FrameType | None) -> None:
            logger.info("stopping on %s", signal.Signals(number).name)
            coordinator.stop()

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        stack.callback(coordinator.close)
        on_ready(endpoint, keyring.server.public)
        coordinator.runs.resume_interrupted()
        coordinator.run()
