"""Starts an agent from its settings and ends it in order."""

import logging
import os
import select
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from types import FrameType

from flctl.agent.config import AgentConfig
from flctl.agent.log import AgentLog
from flctl.agent.state import AgentState, saved_log
from flctl.agent.supervisor import Supervisor
from flctl.agent.telemetry import Computer
from flctl.errors import FlctlError, TaskError, UsageError
from flctl.learning.registry import known_tasks, task_digest
from flctl.transport.blobs import BlobStore
from flctl.transport.health import HealthPort
from flctl.transport.keypair import load_or_make, shown
from flctl.transport.zeromq import ZeroMqLink
from flctl.wire.messages import Digest
from flctl.worker.process import WorkerProcess

logger = logging.getLogger(__name__)


def run_agent(config: AgentConfig, exit_with_parent: bool = False) -> None:
    """Run until SIGTERM or SIGINT, or until standard input ends if `exit_with_parent`.

    Raises UsageError, StateError, UnknownTask before anything is started, and AccessError
    when a join is refused for good.
    """
    tasks = enabled_tasks(config.tasks, config.allow_tasks)
    with ExitStack() as stack:
        state = AgentState(config.state)
        stack.callback(state.close)
        state.save_tasks(tasks)
        log = stack.enter_context(_shared_log(config, state))
        keys = load_or_make(state.key_file)
        stop = stack.enter_context(stop_asked(exit_with_parent))
        server_keys = state.server_keys(config.server_key) or config.server_key
        link = ZeroMqLink(config.coordinator, keys, server_keys)
        supervisor = Supervisor(
            config=config,
            link=link,
            worker=WorkerProcess(keep=None if log is None else log.of_worker),
            store=BlobStore(config.memory_limit_bytes, state.blobs),
            machine=Computer(state.folder),
            state=state,
            public_key=keys.public,
            tasks=tasks,
            clock=time.monotonic,
            health=HealthPort(state.folder, "agent"),
            log=log,
        )
        stack.callback(supervisor.close)
        logger.info(
            "agent=%s coordinator=%s key=%s tasks=%s",
            supervisor.session.name or "(unnamed)",
            config.coordinator,
            shown(keys.public),
            ",".join(f"{name}:{digest[:12]}" for name, digest in tasks.items()) or "none",
        )
        try:
            supervisor.run(stop)
        except FlctlError:
            raise
        except Exception as error:
            logger.error("agent=%s ends with a bug: %r", supervisor.session.name, error)
            raise
        logger.info("agent=%s stops", supervisor.session.name)


@contextmanager
def _shared_log(config: AgentConfig, state: AgentState) -> Iterator[AgentLog | None]:
    """Takes all lines of this process; None if the owner keeps them to himself."""
    if not config.share_log:
        state.forget_log()
        yield None
        return
    log, root = AgentLog(saved_log(state.folder)), logging.getLogger()
    root.addHandler(log)
    try:
        yield log
    finally:
        root.removeHandler(log)


def enabled_tasks(names: Sequence[str], allowed: Sequence[str] = ()) -> dict[str, Digest]:
    """Digest of each of these tasks, or of all that are installed and whole when none is named;
    of these only the `allowed`, if any are named.

    Raises UnknownTask or TaskError for a named one, UsageError for an allowed one that is not
    enabled.
    """
    if unknown := [name for name in allowed if names and name not in names]:
        raise UsageError(f"--allow-task {unknown[0]}: is not among --task {', '.join(names)}")
    if allowed or names:
        return {name: task_digest(name) for name in allowed or names}
    found: dict[str, Digest] = {}
    for name in known_tasks():
        try:
            found[name] = task_digest(name)
        except TaskError as error:
            logger.warning("%s; it is left out", error)
    return found


class Stop:
    """Notes a request to end, and wakes the waiting loop."""

    def __init__(self, wake_fd: int, parent_fd: int | None) -> None:
        self.fds: list[int] = [fd for fd in (wake_fd, parent_fd) if fd is not None]
        self._parent_fd = parent_fd
        self._asked = False

    def ask(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self._asked = True

    def asked(self) -> bool:
        if self._parent_fd is not None and select.select([self._parent_fd], [], [], 0)[0]:
            with suppress(BlockingIOError):
                while os.read(self._parent_fd, 256):
                    pass
                self._asked = True  # the parent, or another holder of the other end, is gone
        return self._asked


@contextmanager
def stop_asked(exit_with_parent: bool) -> Iterator[Stop]:
    """SIGTERM and SIGINT, and the end of standard input if wanted, end the agent in order."""
    wake_fd, wake_up_fd = os.pipe()  # not inherited
    for fd in (wake_fd, wake_up_fd):
        os.set_blocking(fd, False)
    parent_fd = 0 if exit_with_parent else None
    if parent_fd is not None:
        os.set_blocking(parent_fd, False)
    stop = Stop(wake_fd, parent_fd)
    before = {number: signal.signal(number, stop.ask) for number in (signal.SIGTERM, signal.SIGINT)}
    # A handler alone does not end a poll (PEP 475): it is woken by a byte.
    old_wake_up = signal.set_wakeup_fd(wake_up_fd, warn_on_full_buffer=False)
    try:
        yield stop
    finally:
        signal.set_wakeup_fd(old_wake_up)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(wake_fd)
        os.close(wake_up_fd)
