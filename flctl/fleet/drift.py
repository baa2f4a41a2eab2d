"""Compares versions and settings of agents with the intended ones: pure."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct

from flctl.agent.config import Choices, usual_threads
from flctl.fleet.inventory import Expected
from flctl.labels import Label, written
from flctl.wire.messages import Limits

VARIABLE = "flctl_agent_{}"
LABELS = "labels"
ENVIRONMENT = {"tasks": "FLCTL_TASK", "allow_tasks": "FLCTL_ALLOW_TASK"}
"""How the role hands on what it does not hand on under the variable's own name."""


class Difference(Struct, frozen=True):
    what: str
    """version, image, settings, labels, or one of the owner's limits."""
    has: str
    wanted: str
    by: Literal["inventory", "most agents"]

    def __str__(self) -> str:
        has, wanted = (
            value[:12] if len(value) == 64 else value for value in (self.has, self.wanted)
        )
        of = "" if self.by == "inventory" else " as on most"
        return f"{self.what} {has} instead of {wanted}{of}"


def drift(
    agents: Iterable[Mapping[str, Any]], expected: Iterable[Expected] = ()
) -> dict[str, tuple[Difference, ...]]:
    """In what each agent is not as the inventory says; where that says nothing, as most others."""
    known = {agent["name"]: (agent, _facts(agent)) for agent in agents if agent["version"]}
    values: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for agent, facts in known.values():
        for what, value in facts.items():
            values[_peers(agent, what)].append(value)
    usual = {peers: _usual(those) for peers, those in values.items()}
    hosts = {host.name: host for host in expected if host.called}
    found = {}
    for name, (agent, facts) in known.items():
        # Only of what the playbooks have deployed the inventory says how it should be.
        host = hosts.get(name) if agent.get("image") else None
        told = _wanted(host.variables, agent) if host else {}
        found[name] = tuple(
            Difference(what, value, wanted, "inventory" if what in told else "most agents")
            for what, value in facts.items()
            if (wanted := told.get(what) or usual[_peers(agent, what)]) not in (None, value)
        )
    return {name: differences for name, differences in found.items() if differences}


def _facts(agent: Mapping[str, Any]) -> dict[str, str]:
    """Facts about an agent; those an older agent does not report are left out."""
    plain = {what: agent.get(what) for what in ("version", "image", "settings")}
    labels = agent.get("own_labels")  # an older coordinator does not tell
    own = {} if labels is None else {LABELS: written(dict(sorted(labels.items()))) or "none"}
    every = {**plain, **own, **(agent.get("limits") or {})}
    return {what: str(value) for what, value in every.items() if value is not None}


def _peers(agent: Mapping[str, Any], what: str) -> tuple[str, ...]:
    """An image is compared with those of its version and architecture, labels with none."""
    if what == LABELS:
        return (what, str(agent["name"]))
    return (what, str(agent["version"]), str(agent.get("arch"))) if what == "image" else (what,)


def _usual(values: Sequence[str]) -> str | None:
    """What more than half have; None: nothing."""
    most = max(values, key=values.count)
    return most if 2 * values.count(most) > len(values) else None


def _wanted(variables: Mapping[str, Any], agent: Mapping[str, Any]) -> dict[str, str]:
    """Settings and limits as the role flctl_agent makes them of a host's variables. Nothing where
    only Ansible could evaluate them."""
    environment = variables.get(VARIABLE.format("environment"), {})
    given: dict[str, Any] = {}
    for name in (*Choices.__struct_fields__, *Limits.__struct_fields__):
        value = variables.get(VARIABLE.format(name))
        if isinstance(environment, Mapping):
            value = environment.get(ENVIRONMENT.get(name, f"FLCTL_{name.upper()}"), value)
        if value is not None:
            given[name] = value.split() if name in ENVIRONMENT and isinstance(value, str) else value
    labels = variables.get(VARIABLE.format(LABELS), variables.get("flctl_labels")) or {}
    if "{{" in f"{environment}{given}{labels}":
        return {}
    try:
        choices = msgspec.convert(given, Choices, strict=False)
        # A number is text there as well.
        named = {
            key: str(value) for key, value in msgspec.convert(labels, dict[Label, Any]).items()
        }
        limits = {name: given[name] for name in given.keys() & {*Limits.__struct_fields__}}
        floors: dict[str, Any] = msgspec.to_builtins(msgspec.convert(limits, Limits, strict=False))
    except msgspec.ValidationError:
        return {}
    if choices.threads == usual_threads(agent.get("cores") or 0):
        choices = msgspec.structs.replace(choices, threads=0)
    told = {"settings": choices.digest, LABELS: written(dict(sorted(named.items()))) or "none"}
    return {**told, **{name: str(floor) for name, floor in floors.items()}}
