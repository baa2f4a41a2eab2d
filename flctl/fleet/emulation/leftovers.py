"""Removes an emulated fleet: all of it, a part, or what a failed start left."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flctl.errors import FlctlError
from flctl.fleet.context import forget_context, load_context
from flctl.fleet.emulation.members import OLD, at_once, labelled, members
from flctl.fleet.emulation.plan import COORDINATOR, MEMBER, container_name

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container


CONFLICT = 409
TRIES, PAUSE_S = 40, 0.5
"""How often, and at what interval, removal of what is still in use is retried."""


def take_down(client: "DockerClient", fleet: str, state: Path) -> int:
    """Remove everything of that fleet: how many containers, volumes and networks there were."""
    count = len(_containers(client, fleet)) + len(_volumes_and_networks(client, fleet))

    def remove() -> None:
        at_once(_remove, _containers(client, fleet))
        for thing in _volumes_and_networks(client, fleet):
            thing.remove()

    _again_while_in_use(remove)
    with contextlib.suppress(FlctlError):  # damaged, or never there
        context = load_context(state, fleet)
        if context is not None and context.emulated:
            forget_context(state, fleet)
    return count


def remove_member(client: "DockerClient", fleet: str, name: str) -> None:
    """Its container, what has made it slow, and its volume."""
    from docker.errors import NotFound

    for called in (container_name(fleet, name), container_name(fleet, f"{name}-slow")):
        with contextlib.suppress(NotFound):
            client.containers.get(called).remove(force=True, v=True)
    with contextlib.suppress(NotFound):
        client.volumes.get(container_name(fleet, name)).remove()


def settle(client: "DockerClient", fleet: str) -> None:
    """After an `up` that was killed: what it had replaced is dropped, or takes its place again."""
    there = members(client, fleet)
    for old in _containers(client, fleet):
        name = str(old.name)
        if name.endswith(OLD):
            if old.labels[MEMBER] in there:
                _remove(old)
            else:
                old.rename(name.removesuffix(OLD))


class Before:
    """What there was of a fleet at one moment."""

    def __init__(self, client: "DockerClient", fleet: str) -> None:
        self._client, self._fleet = client, fleet
        self._running = {
            c.id: c.status in ("running", "paused", "restarting")
            for c in _containers(client, fleet)
        }
        self._others = {thing.id for thing in _volumes_and_networks(client, fleet)}
        self._removed: set[str] = set()

    def remove_newcomers(self) -> None:
        """Agents' containers that have come since: they could still join."""
        there = _containers(self._client, self._fleet)
        new = [c for c in there if c.id not in self._running and c.labels[MEMBER] != COORDINATOR]
        _again_while_in_use(lambda: at_once(_remove, new))

    def restore(self) -> None:
        """Remove what has come since, and put back what was replaced."""
        _again_while_in_use(self._restore)
        time.sleep(PAUSE_S)  # what the engine makes of a request that was broken off comes later
        _again_while_in_use(self._restore)

    def _restore(self) -> None:
        containers = _containers(self._client, self._fleet)
        at_once(_remove, [c for c in containers if c.id not in self._running])
        for container in containers:
            name = str(container.name)
            if container.id in self._running and name.endswith(OLD):
                container.rename(name.removesuffix(OLD))
                if self._running[container.id]:
                    container.start()
        for thing in _volumes_and_networks(self._client, self._fleet):
            if thing.id not in self._others:
                thing.remove()
                self._removed.add(thing.id)
        # For a container that was to come the engine makes its volume again, without a label.
        for volume in self._client.volumes.list():
            if volume.id in self._removed:
                volume.remove()


def _again_while_in_use(remove: Callable[[], object]) -> None:
    """The engine goes on with a request that was broken off: what it makes comes a moment later,
    and holds its volume and its network."""
    from docker.errors import APIError

    for left in reversed(range(TRIES)):
        try:
            remove()
            return
        except APIError as error:
            if error.status_code != CONFLICT or not left:
                raise
            time.sleep(PAUSE_S)


def _volumes_and_networks(client: "DockerClient", fleet: str) -> list[Any]:
    volumes: list[Any] = client.volumes.list(filters=labelled(fleet))
    return [*volumes, *client.networks.list(filters=labelled(fleet))]


def _containers(client: "DockerClient", fleet: str) -> "list[Container]":
    return client.containers.list(all=True, filters=labelled(fleet), ignore_removed=True)


def _remove(container: "Container") -> None:
    from docker.errors import NotFound

    with contextlib.suppress(NotFound):
        container.remove(force=True, v=True)
