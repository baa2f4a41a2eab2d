"""Many agents in one process: real supervisors over real links. Their workers and machines are the
caller's. They end with their standard input."""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flctl.agent.config import AgentConfig
from flctl.agent.log import AgentLog
from flctl.agent.state import AgentState
from flctl.agent.supervisor import Supervisor
from flctl.transport.blobs import BlobStore
from flctl.transport.keypair import load_or_make
from flctl.transport.zeromq import ZeroMqLink
from flctl.wire.messages import Digest, Limits


class Ended:
    """All agents end when one pipe does."""

    def __init__(self) -> None:
        read, self._write = os.pipe()
        self.fds = [read]
        self._asked = False

    def ask(self) -> None:
        self._asked = True
        os.write(self._write, b"e")

    def asked(self) -> bool:
        return self._asked


def supervisor(
    given: dict[str, Any], name: str, tasks: dict[str, Digest], worker: Any, machine: Any
) -> Supervisor:
    folder = Path(given["folder"]) / name
    log = AgentLog() if given.get("logs") else None
    if log is not None:
        logging.getLogger().addHandler(log)
    state, keys = AgentState(folder), load_or_make(folder / "agent.key")
    config = AgentConfig(
        coordinator=given["coordinator"],
        server_key=given["server_key"],
        state=folder,
        name=name,
        join_token=given["token"],
        limits=Limits(min_examples=1, min_batch_size=1, max_rounds_per_hour=0),
    )
    return Supervisor(
        config=config,
        link=ZeroMqLink(config.coordinator, keys, config.server_key),
        worker=worker,
        store=BlobStore(64 << 20, state.blobs),
        machine=machine,
        state=state,
        public_key=keys.public,
        tasks=tasks,
        clock=time.monotonic,
        log=log,
    )


def run(agent: Supervisor, ended: Ended) -> None:
    try:
        agent.run(ended)
    finally:
        agent.close()


def live(
    given: dict[str, Any], tasks: dict[str, Digest], make: Callable[[str], tuple[Any, Any]]
) -> None:
    """`given`: coordinator, server_key, token, folder, names; `logs`: their logs can be read.
    `make` gives an agent's worker and machine. Returns when standard input ends."""
    ended = Ended()
    agents = [supervisor(given, name, tasks, *make(name)) for name in given["names"]]
    threads = [threading.Thread(target=run, args=(agent, ended)) for agent in agents]
    for thread in threads:
        thread.start()
    print("the agents are there", flush=True)
    sys.stdin.buffer.read()
    ended.ask()
    for thread in threads:
        thread.join()
