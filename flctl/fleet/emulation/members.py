"""Containers, volumes and networks of an emulated fleet, read from Docker, their only record."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec import Struct

from flctl.errors import EngineError, UsageError
from flctl.fleet.emulation.plan import COORDINATOR, FLEET, MEMBER, TRAITS

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container

One = TypeVar("One")
Result = TypeVar("Result")

OLD = ".old"
"""Ends the name of a container that has been replaced, until its successor is well."""
SLOW, RATE, ENDPOINT = "io.flctl.slow", "io.flctl.rate", "io.flctl.endpoint"
"""Labels of the finished container that made a member slow: which member, how, on which
connection."""
AT_ONCE = 4
"""Requests to the engine; more only wait for each other."""


class EmulatedAgent(Struct, kw_only=True):
    """One container of a fleet."""

    name: str
    container: str
    """Its id."""
    image: str
    power: str
    """running, paused, restarting, off"""
    exit_code: int | None
    restarts: int
    address: str | None
    endpoint: str | None
    """Endpoint of its connection to the fleet's network; None when it is cut off."""
    traits: dict[str, str]
    unhealthy: bool = False
    """Its own check of itself fails."""
    rate: str | None = None
    """To which it is slowed down."""

    @property
    def state(self) -> str:
        """In words."""
        words = [self.power if self.power != "off" else _off(self.exit_code)]
        if self.unhealthy:
            words.append("unhealthy")
        if self.endpoint is None:
            words.append("cut off")
        elif self.rate is not None:
            words.append(f"slow {self.rate}")
        return ", ".join(words)

    @property
    def is_up(self) -> bool:
        return self.power != "off"


def labelled(fleet: str | None = None) -> dict[str, Any]:
    """Docker's filter for what belongs to this fleet, or to any."""
    return {"label": [FLEET if fleet is None else f"{FLEET}={fleet}"]}


def members(client: "DockerClient", fleet: str) -> dict[str, EmulatedAgent]:
    """The coordinator and the agents by name, the coordinator first; empty when there is none."""
    # A container may go while it is asked after.
    all_of_it = client.containers.list(all=True, filters=labelled(fleet), ignore_removed=True)
    found = [_member(c, fleet) for c in all_of_it if MEMBER in c.labels and not _is_old(c)]
    slow = {c.labels[ENDPOINT]: c.labels[RATE] for c in all_of_it if SLOW in c.labels}
    for member in found:
        if member.endpoint is not None and member.power != "off":
            member.rate = slow.get(member.endpoint)
    return {m.name: m for m in sorted(found, key=lambda m: (m.name != COORDINATOR, m.name))}


def fleets(client: "DockerClient") -> list[str]:
    """The names of all fleets of which there is something."""
    made: list[Any] = [*client.networks.list(filters=labelled())]
    made += client.volumes.list(filters=labelled())
    made += client.containers.list(all=True, filters=labelled(), ignore_removed=True)
    return sorted({labels_of(thing)[FLEET] for thing in made})


def standing(client: "DockerClient", fleet: str) -> dict[str, EmulatedAgent]:
    """The members of an existing fleet. Raises EngineError when there is no such fleet."""
    found = members(client, fleet)
    if not found:
        others = [name for name in fleets(client) if name != fleet]
        also = f" (there is {', '.join(others)}: name it with --fleet)" if others else ""
        raise EngineError(f"no emulated fleet '{fleet}'{also}; start one with flctl emulate up")
    return found


def chosen(client: "DockerClient", fleet: str, names: Iterable[str]) -> list[EmulatedAgent]:
    """The members of these names. Raises UsageError for a name that is not there."""
    there = standing(client, fleet)
    for name in names:
        if name not in there:
            known = list(there)
            few = ", ".join(known if len(known) <= 6 else [*known[:4], "…", known[-1]])
            raise UsageError(f"no '{name}' in fleet '{fleet}', which has {few}")
    return [there[name] for name in dict.fromkeys(names)]


def labels_of(thing: Any) -> dict[str, str]:
    """The labels of a container, volume or network."""
    attrs = thing.attrs
    return dict(attrs.get("Labels") or attrs.get("Config", {}).get("Labels") or {})


def at_once(work: Callable[[One], Result], things: Iterable[One]) -> list[Result]:
    """`work` on all of them, a few at a time; what is not begun after an error never is."""
    from concurrent.futures import ThreadPoolExecutor

    pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="docker")
    try:
        return [future.result() for future in [pool.submit(work, thing) for thing in things]]
    finally:
        pool.shutdown(cancel_futures=True)


def _member(container: "Container", fleet: str) -> EmulatedAgent:
    attrs, labels = container.attrs, container.labels
    state = attrs["State"]
    network = attrs["NetworkSettings"]["Networks"].get(fleet)
    power = "off" if state["Status"] in ("created", "exited", "dead", "removing") else None
    return EmulatedAgent(
        name=labels[MEMBER],
        container=str(container.id),
        image=attrs["Config"]["Image"],
        power=power or state["Status"],
        exit_code=None if state["Status"] == "created" else state["ExitCode"],
        restarts=attrs["RestartCount"],
        address=(network or {}).get("IPAddress") or None,
        # Docker keeps the place of a container that is off, and only a cut takes it away.
        endpoint=None if network is None else network["EndpointID"],
        traits={
            name: labels[f"io.flctl.{name}"] for name in TRAITS if f"io.flctl.{name}" in labels
        },
    )


def _is_old(container: "Container") -> bool:
    return str(container.name).endswith(OLD)


def _off(code: int | None) -> str:
    if code is None:
        return "not started"
    return {0: "off", 137: "off (killed)"}.get(code, f"off (exit code {code})")
