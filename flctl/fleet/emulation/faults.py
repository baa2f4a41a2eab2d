"""Faults on a running fleet: what happens to real Pis, done to containers."""

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from flctl.errors import EngineError, one_line
from flctl.fleet.emulation.engine import explained
from flctl.fleet.emulation.members import ENDPOINT, RATE, SLOW, EmulatedAgent
from flctl.fleet.emulation.plan import COORDINATOR, FLEET, STATE, container_name, of_fleet

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container


class Done(NamedTuple):
    said: str
    """Its condition now, to be printed after its name."""
    back: str | None = None
    """The command that takes the fault away."""


Fault = Callable[["DockerClient", str, EmulatedAgent], Done]
"""Does something to a member of a fleet."""

STOP_S = 10
BURST_BYTES, LATENCY_MS = 16_384, 400
"""Token bucket: a burst of some packets, and about the queue of a home router."""

NETWORKS = "cd /sys/class/net && for d in *; do [ $d = lo ] || "
"""A member that was cut off and healed may have another name for its only connection."""
OTHER_END = NETWORKS + "cat $d/iflink; done"
ON_THIS_SIDE = NETWORKS + "tc qdisc {} dev $d root {}; done"
ON_THE_OTHER_SIDE = (
    'cd /sys/class/net && for d in *; do if [ "$(cat $d/ifindex)" = {} ]; then '
    "tc qdisc {} dev $d root {}; exit; fi; done; exit 1"
)


def kill(client: "DockerClient", fleet: str, member: EmulatedAgent) -> Done:
    """As when the power goes: no goodbye, and it stays off."""
    _must_be_up(fleet, member)
    _container(client, member).kill()
    return Done("is powered off", "restart")


def pause(client: "DockerClient", fleet: str, member: EmulatedAgent) -> Done:
    """As when a machine hangs: it is there and says nothing."""
    _must_be_up(fleet, member)
    if member.power != "paused":
        _container(client, member).pause()
    return Done("hangs", "unpause")


def unpause(client: "DockerClient", fleet: str, member: EmulatedAgent) -> Done:
    _must_be_up(fleet, member)
    if member.power == "paused":
        _container(client, member).unpause()
    return Done("goes on")


def restart(client: "DockerClient", _: str, member: EmulatedAgent) -> Done:
    """Stop it in order if it runs, and start it."""
    if member.power == "paused":
        _container(client, member).unpause()
    _container(client, member).restart(timeout=STOP_S)
    return Done("starts")


def cut(client: "DockerClient", fleet: str, member: EmulatedAgent) -> Done:
    """As when the cable is pulled: its packets are lost without an error."""
    if member.endpoint is not None:
        client.networks.get(fleet).disconnect(_container(client, member), force=True)
    _forget_rate(client, fleet, member)
    return Done("is off the network", "heal")


def heal(client: "DockerClient", fleet: str, member: EmulatedAgent) -> Done:
    """On the network, at full speed."""
    if member.endpoint is None:
        aliases = [member.name] if member.name == COORDINATOR else None
        client.networks.get(fleet).connect(_container(client, member), aliases=aliases)
    elif member.rate is not None:
        _shape(client, fleet, member, None)
    _forget_rate(client, fleet, member)
    return Done("is on the network, at full speed")


def slow(client: "DockerClient", fleet: str, member: EmulatedAgent, bits: int) -> Done:
    """Limit sending and receiving to `bits` per second each. Raises EngineError."""
    _must_be_up(fleet, member)
    if member.endpoint is None:
        raise EngineError(f"{member.name} is cut off; first: {again(fleet, 'heal', member)}")
    if member.power == "paused":
        raise EngineError(f"{member.name} hangs; first: {again(fleet, 'unpause', member)}")
    _forget_rate(client, fleet, member)
    _shape(client, fleet, member, bits)
    return Done(f"has {shown_rate(bits)} up and down", "heal")


def shown_rate(bits: int) -> str:
    for unit, factor in (("Gbit/s", 1e9), ("Mbit/s", 1e6)):
        if bits >= factor:
            return f"{bits / factor:g} {unit}"
    return f"{bits / 1e3:g} kbit/s"


def _shape(client: "DockerClient", fleet: str, member: EmulatedAgent, bits: int | None) -> None:
    """Queues at both ends of its cable; None takes them away.

    The member itself may not touch its network. The queue for what it sends is set by a
    helper that shares its network, and nothing else; the one for what it receives by one in
    the engine's network, where the other end of the cable is. The first stays, finished, as
    the record of what was done.
    """
    bucket = f"tbf rate {bits}bit burst {BURST_BYTES} latency {LATENCY_MS}ms" if bits else ""
    do = "replace" if bits else "del"
    container = _container(client, member)
    code, out = container.exec_run(["sh", "-c", OTHER_END])
    assert isinstance(out, bytes)
    other_end = out.decode(errors="replace").strip()
    if code != 0 or not other_end.isdigit():
        raise EngineError(f"{member.name}: cannot read its network: {other_end}")
    labels = {FLEET: fleet, SLOW: member.name, ENDPOINT: member.endpoint or ""}
    if bits:
        labels[RATE] = shown_rate(bits)
    place = f"container:{container.id}"
    _help(client, fleet, place, ON_THIS_SIDE.format(do, bucket), labels if bits else None)
    _help(client, fleet, "host", ON_THE_OTHER_SIDE.format(other_end, do, bucket), None)


def _help(
    client: "DockerClient", fleet: str, network: str, script: str, labels: dict[str, str] | None
) -> None:
    """Run a shell script that may change that network; `labels`: of the container to be kept."""
    from docker.errors import ContainerError

    coordinator = client.containers.get(container_name(fleet, COORDINATOR))
    name = container_name(fleet, f"{labels[SLOW]}-slow") if labels else None
    try:
        client.containers.run(
            str(coordinator.attrs["Image"]),
            [script],
            entrypoint=["sh", "-c"],
            name=name,
            labels=labels or {FLEET: fleet},
            network_mode=network,
            user="0",
            cap_drop=["ALL"],
            cap_add=["NET_ADMIN"],
            security_opt=["no-new-privileges"],
            read_only=True,
            tmpfs={STATE: "size=1m"},  # else the image's volume is made, and stays
            remove=labels is None,
            healthcheck={"test": ["NONE"]},
        )
    except ContainerError as error:
        if name is not None:
            with explained():
                client.containers.get(name).remove(force=True, v=True)
        said = error.stderr.decode(errors="replace") if isinstance(error.stderr, bytes) else ""
        why = one_line(" ".join(said.split())) or f"exit code {error.exit_status}"
        raise EngineError(f"cannot limit the network speed: {why}") from error


def _forget_rate(client: "DockerClient", fleet: str, member: EmulatedAgent) -> None:
    from docker.errors import NotFound

    with contextlib.suppress(NotFound):
        record = client.containers.get(container_name(fleet, f"{member.name}-slow"))
        record.remove(force=True, v=True)


def again(fleet: str, command: str, member: EmulatedAgent) -> str:
    """The command line that does `command` to it."""
    return f"flctl emulate {command} {member.name}{of_fleet(fleet)}"


def _must_be_up(fleet: str, member: EmulatedAgent) -> None:
    if not member.is_up:
        raise EngineError(f"{member.name} is off; first: {again(fleet, 'restart', member)}")


def _container(client: "DockerClient", member: EmulatedAgent) -> "Container":
    return client.containers.get(member.container)
