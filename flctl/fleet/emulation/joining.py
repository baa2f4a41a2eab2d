"""Lets an emulated fleet's agents in: the operator's own key, a token for the new ones."""

import hashlib
import io
import json
import logging
import tarfile
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast

from flctl.errors import AccessError, CoordinatorAway, EngineError, FlctlError
from flctl.fleet.connecting import remote
from flctl.fleet.console import RemoteRuns
from flctl.fleet.context import Context
from flctl.fleet.discovery import WORKING
from flctl.fleet.emulation.members import members
from flctl.fleet.emulation.plan import COORDINATOR, STATE, TOKEN, USER, container_name
from flctl.transport.keypair import KeyPair, public_key

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container

logger = logging.getLogger(__name__)

ANSWER_S = 90.0
"""For the coordinator to start and answer; an emulated processor takes long."""
READY_S, EACH_S = 120.0, 15.0
"""For all agents to read their data, and more for each of them."""
LOOK_S, LOOK_UP_S = 0.5, 2.0
TOKEN_TTL_S = 600.0


class Door:
    """The coordinator of an emulated fleet as its operator sees it."""

    def __init__(
        self, client: "DockerClient", fleet: str, port: int, known: Context | None
    ) -> None:
        """`known`: the context of an operator who has a key already."""
        self._client, self._fleet = client, fleet
        self._address = f"127.0.0.1:{port}"
        self._keys = known.keys() if known else KeyPair.make()
        self._console: RemoteRuns | None = None
        self._token = b""
        self._newcomers: frozenset[str] = frozenset()
        self.server_key = ""

    @property
    def context(self) -> Context:
        return Context(
            coordinator=self._address,
            server_key=self.server_key,
            public_key=self._keys.public,
            secret_key=self._keys.secret,
            emulated=True,
        )

    @property
    def console(self) -> RemoteRuns:
        assert self._console is not None
        return self._console

    def open(self) -> None:
        """Wait for the coordinator, and enrol the operator's key. Raises EngineError."""
        until = time.monotonic() + ANSWER_S
        name = f"operator-{hashlib.sha256(self._keys.public.encode()).hexdigest()[:8]}"
        self._exec(until, "keys", "add", name, self._keys.public, "--role", "admin")
        listed = json.loads(self._exec(until, "keys", "list", "--json"))
        self.server_key = public_key(str(listed["server_key"]), "the coordinator's key")
        self._console = remote(self.context)
        while True:
            try:
                self.console.status()
                return
            except (AccessError, CoordinatorAway) as error:  # it has not seen the key, or started
                if time.monotonic() > until:
                    raise EngineError(f"the coordinator does not answer: {error}") from error
                self._check_alive()
            self._console.close()
            self._console = remote(self.context)

    def let_in(self, names: Iterable[str], new: set[str]) -> None:
        """Create a token for those of `names` whom the coordinator does not know.

        `new` are those who will have a new key, because what they had is gone.
        """
        enrolled = {entry["name"] for entry in self.console.keys()["keys"]}
        self.shut_out(enrolled & new)
        self._newcomers = frozenset(names) - (enrolled - new)
        if self._newcomers:
            self._token = self.console.token(TOKEN_TTL_S, len(self._newcomers)).encode()

    def hand_token(self, container: "Container", name: str) -> None:
        """As a file that only the agent can read: the environment can be seen from outside."""
        if name not in self._newcomers:
            return
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            info = tarfile.TarInfo(TOKEN.rpartition("/")[2])
            info.size, info.mode, info.mtime = len(self._token), 0o400, int(time.time())
            info.uid = info.gid = USER
            tar.addfile(info, io.BytesIO(self._token))
        container.put_archive(STATE, archive.getvalue())

    def shut_out(self, names: Iterable[str]) -> None:
        """Those of them who came in. Raises FlctlError when one could not be, after all others."""
        enrolled = {entry["name"] for entry in self.console.keys()["keys"]}
        failed: list[str] = []
        for name in sorted(enrolled & set(names)):
            try:
                self.console.revoke(name)
            except FlctlError as error:
                failed.append(f"{name}: {error}")
        if failed:
            raise FlctlError(f"these agents are still enrolled: {'; '.join(failed)}")

    def close(self, failed: bool) -> None:
        """`failed`: those who came in are shut out again."""
        if self._console is not None:
            try:
                if failed:
                    self.shut_out(self._newcomers)
            except FlctlError as error:  # what has failed before is what is raised
                logger.warning("fleet=%s not everything was undone: %s", self._fleet, error)
            finally:
                self._console.close()

    def _exec(self, until: float, *command: str) -> str:
        """What `flctl` says within the coordinator's container."""
        while True:
            container = self._check_alive()
            code, both = container.exec_run(["flctl", *command], demux=True)
            out, err = cast("tuple[bytes | None, bytes | None]", both)
            if code == 0:
                return (out or b"").decode()
            if time.monotonic() > until:
                said = (err or out or b"nothing").decode(errors="replace").strip()
                raise EngineError(f"the coordinator does not answer: {said.splitlines()[-1]}")
            time.sleep(LOOK_S)

    def _check_alive(self) -> "Container":
        container = self._client.containers.get(container_name(self._fleet, COORDINATOR))
        if container.status not in ("created", "running"):
            raise EngineError(f"the coordinator keeps stopping: {last_words(container)}")
        return container


def until_ready(
    client: "DockerClient",
    fleet: str,
    names: Sequence[str],
    door: Door,
    tell: Callable[[str], None],
) -> None:
    """Wait for all agents to have their data. Raises EngineError when one cannot."""
    until = time.monotonic() + READY_S + EACH_S * len(names)
    look_again = 0.0
    restarts = {name: member.restarts for name, member in members(client, fleet).items()}
    while True:
        there = {agent["name"]: agent for agent in door.console.status()["agents"]}
        agents = {name: there.get(name, {"state": "lost"}) for name in names}
        waiting = [n for n, agent in agents.items() if agent["state"] not in WORKING]
        if not waiting:
            return
        _check_data(agents)
        joined = sum(agent["state"] not in ("lost", "stopped") for agent in agents.values())
        tell(f"{joined} of {len(names)} agents joined, {len(names) - len(waiting)} ready")
        if time.monotonic() > look_again:
            _check_up(client, fleet, waiting, restarts)
            look_again = time.monotonic() + LOOK_UP_S
        if time.monotonic() > until:
            raise EngineError(f"{waiting[0]} is {agents[waiting[0]]['state']} for too long")
        time.sleep(LOOK_S)


def _check_up(
    client: "DockerClient", fleet: str, waiting: Sequence[str], restarts: dict[str, int]
) -> None:
    for name, member in members(client, fleet).items():
        if name in waiting and (not member.is_up or member.restarts > restarts[name]):
            said = last_words(client.containers.get(member.container))
            raise EngineError(f"{name} keeps stopping: {said}")


def _check_data(agents: dict[str, dict[str, Any]]) -> None:
    for name, agent in agents.items():
        if agent["state"] == "no data":
            raise EngineError(f"{name} has no data: {agent['last_error']}")


def last_words(container: "Container") -> str:
    """The last line of its log."""
    lines = container.logs(tail=5).decode(errors="replace").strip().splitlines()
    return lines[-1].removeprefix("flctl: ") if lines else "its log is empty"
