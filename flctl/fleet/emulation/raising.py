"""Creates an emulated fleet, or updates the existing one.

On any failure, also Ctrl-C, new parts are removed and replaced ones are restored, so that the
fleet is as it was before.
"""

import contextlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from flctl.errors import EngineError, UsageError
from flctl.fleet.context import Context, load_context, save_context
from flctl.fleet.emulation import faults
from flctl.fleet.emulation.engine import explained
from flctl.fleet.emulation.joining import Door, until_ready
from flctl.fleet.emulation.leftovers import Before, remove_member, settle
from flctl.fleet.emulation.members import OLD, at_once, labels_of, members
from flctl.fleet.emulation.plan import (
    COORDINATOR,
    FLEET,
    MEMBER,
    PORT,
    SPEC,
    EmulationPlan,
    Spec,
    container_name,
)

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container

PORTS = range(PORT, PORT + 200)

Tell = Callable[[str], None]


class Raised(Struct):
    """What `raise_fleet` has done."""

    port: int
    made: list[str] = []
    replaced: list[str] = []
    removed: list[str] = []


def raise_fleet(
    client: "DockerClient", plan: EmulationPlan, port: int | None, state: Path, tell: Tell
) -> Raised:
    """The fleet of `plan`, all of it ready and without a fault; `flctl --context FLEET` on this
    machine steers it afterwards.

    `port` of this machine leads to its coordinator; None for the one it has, or a free one.
    Raises FlctlError; then the fleet is as it was.
    """
    known = _own_context(state, plan.fleet)
    images = {name: _image(client, name) for name in (plan.image, plan.coordinator_image)}
    settle(client, plan.fleet)
    _check_names(client, plan)
    before = Before(client, plan.fleet)
    raising = _Raising(client, plan, images, tell)
    try:
        done = raising.run(port, state, known)
    except BaseException:
        tell("restoring the previous state")
        before.remove_newcomers()
        raising.close(failed=True)
        before.restore()
        raise
    raising.close()
    return done


class _Raising:
    def __init__(
        self, client: "DockerClient", plan: EmulationPlan, images: dict[str, str], tell: Tell
    ) -> None:
        self._client, self._plan, self._images, self._tell = client, plan, images, tell
        self._fleet = plan.fleet
        self._there = members(client, self._fleet)
        self._door: Door | None = None
        self.done = Raised(port=0)

    def run(self, port: int | None, state: Path, known: Context | None) -> Raised:
        plan, there = self._plan, self._there
        self._network()
        had = there.get(COORDINATOR)
        self.done.port = port or (int(had.traits["port"]) if had else _free_port())
        self._tell("starting the coordinator")
        self._volume(COORDINATOR)
        self._start(self._put(plan.coordinator(self.done.port)))
        self._door = Door(self._client, self._fleet, self.done.port, known)
        self._door.open()
        self._agents(self._door)
        until_ready(self._client, self._fleet, plan.names, self._door, self._tell)
        self._commit(self._door, state)
        return self.done

    def close(self, failed: bool = False) -> None:
        if self._door is not None:
            self._door.close(failed)

    def _agents(self, door: Door) -> None:
        plan = self._plan
        cores = int(self._client.info()["NCPU"])
        new = {name for name in plan.names if self._volume(name)}
        specs = [plan.agent(name, door.server_key, cores) for name in plan.names]
        door.let_in(plan.names, new)
        begun: list[str] = []

        def put_and_start(spec: Spec) -> None:
            container = self._put(spec)
            door.hand_token(container, spec.name)
            self._start(container)
            begun.append(spec.name)
            self._tell(f"starting agents: {len(begun)} of {plan.agents}")

        at_once(put_and_start, specs)

    def _commit(self, door: Door, state: Path) -> None:
        """Nothing is put back from here on."""
        for name in self.done.replaced:
            self._client.containers.get(container_name(self._fleet, name) + OLD).remove(force=True)
        surplus = [n for n in self._there if n != COORDINATOR and n not in self._plan.names]
        if surplus:
            self._tell(f"removing {len(surplus)} agents")
        at_once(lambda name: remove_member(self._client, self._fleet, name), surplus)
        door.shut_out(surplus)
        self.done.removed += surplus
        save_context(state, door.context, self._fleet)

    # Networks, volumes, containers ----------------------------------------------------

    def _network(self) -> None:
        if not self._client.networks.list(names=[f"^{self._fleet}$"]):
            with explained(f"network '{self._fleet}'"):
                self._client.networks.create(
                    self._fleet, driver="bridge", labels={FLEET: self._fleet}
                )

    def _volume(self, name: str) -> bool:
        """Whether it had to be made."""
        called = container_name(self._fleet, name)
        if self._client.volumes.list(filters={"name": f"^{called}$"}):
            return False
        labels = {FLEET: self._fleet, MEMBER: name}
        self._client.volumes.create(called, driver="local", labels=labels)
        return True

    def _put(self, spec: Spec) -> "Container":
        """The container of that member, recreated unless it is as it should be."""
        image_id = self._images[spec.image]
        had = self._there.get(spec.name)
        if had is not None:
            old = self._client.containers.get(had.container)
            if old.labels.get(SPEC) == spec.digest(image_id):
                return old
            self._tell(f"replacing {spec.name}")
            if had.power == "paused":
                old.unpause()
            old.stop(timeout=faults.STOP_S)
            old.rename(container_name(self._fleet, spec.name) + OLD)
        labels = spec.labels(self._fleet, image_id)
        options = spec.options(self._fleet)
        if spec.name == COORDINATOR:  # agents need not know what its container is called
            alias = self._client.api.create_endpoint_config(aliases=[COORDINATOR])
            options["networking_config"] = {self._fleet: alias}
        made = self._client.containers.create(spec.image, labels=labels, **options)
        (self.done.replaced if had else self.done.made).append(spec.name)
        return made

    def _start(self, container: "Container") -> None:
        """Start it, and take away what faults it has."""
        name = container.labels[MEMBER]
        had = self._there.get(name)
        if had is not None and had.container == container.id:
            if had.power == "paused":
                faults.unpause(self._client, self._fleet, had)
            faults.heal(self._client, self._fleet, had)
        try:
            container.start()
        except Exception as error:
            said = str(getattr(error, "explanation", error))
            if "already allocated" in said or "already in use" in said:
                raise EngineError(
                    f"port {self.done.port} of this machine is in use: choose another with --port"
                ) from error
            raise


def _image(client: "DockerClient", name: str) -> str:
    """Its id. Raises EngineError when it is not there."""
    from docker.errors import ImageNotFound

    try:
        return str(client.images.get(name).id)
    except ImageNotFound as error:
        raise EngineError(
            f"no image {name}: build it with 'make images' in a checkout of flctl, or name "
            "another one with --image and --coordinator-image"
        ) from error


def _own_context(state: Path, fleet: str) -> Context | None:
    """What an earlier `up` has saved. Raises EngineError when the name is taken."""
    try:
        context = load_context(state, fleet)
    except UsageError:  # it does not exist
        return None
    if context is not None and not context.emulated:
        raise EngineError(
            f"'{fleet}' is the context of {context.coordinator}, which 'flctl connect' has "
            "saved; choose another name with --fleet"
        )
    return context


def _check_names(client: "DockerClient", plan: EmulationPlan) -> None:
    """Raises EngineError when something that is not this fleet's has a name that it needs."""
    mine = {container_name(plan.fleet, name) for name in (COORDINATOR, *plan.names)}
    for kind, name, labels in _taken(client):
        if name in ({plan.fleet} if kind == "network" else mine) and (
            labels.get(FLEET) != plan.fleet
        ):
            owner = f"fleet '{labels[FLEET]}'" if FLEET in labels else "something else"
            raise EngineError(
                f"the {kind} '{name}' belongs to {owner}: choose another name with --fleet, or "
                f"remove it (docker {kind} rm {name})"
            )


def _taken(client: "DockerClient") -> Iterator[tuple[str, str, dict[str, str]]]:
    """All containers, volumes and networks: kind, name, labels."""
    for container in client.api.containers(all=True):
        for name in container["Names"]:
            yield "container", name.removeprefix("/"), container["Labels"] or {}
    things: list[Any] = [*client.volumes.list()]
    for volume in things:
        yield "volume", volume.name, labels_of(volume)
    for network in client.networks.list():
        yield "network", str(network.name), labels_of(network)


def _free_port() -> int:
    for port in PORTS:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    raise EngineError(f"no port from {PORTS[0]} to {PORTS[-1]} is free; name one with --port")
