"""Compares expected and present agents: the inventory with the coordinator's roster."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import replace

from flctl.fleet.drift import Difference, drift
from flctl.fleet.inventory import Expected
from flctl.formats import moment, span
from flctl.transport.keypair import shown

State = Literal[
    "ready", "starting", "no data", "missing", "lost", "stopped", "waiting key",
    "too old", "too new", "conflict", "cordoned", "extra", "revoked",
]  # fmt: skip
WORKING = ("ready", "training", "evaluating", "offering")
"""What an agent says of itself that is ready for discovery."""

_ADVICE: dict[State, str] = {
    "starting": "wait: its worker is reading the data",
    "no data": "give it data with flctl agent --data",
    "too old": "upgrade the agent: flctl upgrade -i INVENTORY --limit NAME",
    "too new": "upgrade the coordinator first: flctl upgrade -i INVENTORY",
    "conflict": "two machines use its key: stop one, or give it a key of its own",
}
"""For an agent that does not say more itself."""


class Presence(Struct, frozen=True):
    """One agent, or one unknown key."""

    name: str | None
    """None: a key that no host of the inventory seems to have."""
    host: str | None
    state: State
    version: str | None = None
    advice: str = ""
    """What to do about it, in one line; empty when all is well."""
    drift: tuple[Difference, ...] = ()
    """In what it is not as it should be, though it may work."""


def compare(
    expected: Sequence[Expected],
    status: Mapping[str, Any],
    again: str = "",
    inventory: str = "FILE",
) -> list[Presence]:
    """A row for every expected agent, in their order, then for what else there is.

    `status` is what the coordinator answers to "status"; `again` follows a suggested command,
    `inventory` is named in one that deploys.
    """
    differences = drift(status["agents"], expected)
    there = {agent["name"]: agent for agent in status["agents"]}
    waiting = [shown(str(w["public_key"])) for w in status["waiting"]]
    revoked = set(status.get("revoked", ()))  # an older coordinator does not tell
    strangers = [e.name for e in expected if e.name not in there and e.name not in revoked]
    rows = [
        _drifted(
            _known(e.name, e.host, there[e.name], again),
            differences.get(e.name, ()),
            f"flctl deploy -i {inventory} --limit {e.called or e.name}"
            if there[e.name].get("image")
            else "",
        )
        if e.name in there
        else _shut_out(e, again)
        if e.name in revoked
        else _stranger(e, strangers, waiting, again)
        for e in expected
    ]
    extra = sorted(there.keys() - {e.name for e in expected})
    # Where most are extra, it is rather the inventory that is wrong.
    revoke = again if 2 * len(extra) <= len(there) else None
    rows += [_extra(there[name], revoke) for name in extra]
    if len(waiting) != 1 or len(strangers) != 1:
        rows += [_unknown(key, again) for key in waiting]
    return rows


def too_many(status: Mapping[str, Any]) -> str:
    """Message that keys are waiting though every shard has an owner; "" otherwise."""
    shards, waiting = status.get("shards"), len(status["waiting"])
    if not waiting or not shards or shards["dealt"] < shards["of"]:
        return ""
    return (
        f"all {shards['of']} shards are assigned, and {waiting} more wait: assign more "
        "shards (flctl "
        f"keys token --shards {shards['of'] + waiting}; Docker Compose: FLCTL_SHARDS="
        f"{shards['of'] + waiting} docker compose up -d), or stop those"
    )


def enrolled(status: Mapping[str, Any]) -> list[Expected]:
    """Without an inventory, those who have a key are those who should be there."""
    return [Expected(agent["name"], agent["name"]) for agent in status["agents"]]


def all_ready(rows: Iterable[Presence]) -> bool:
    """Whether all expected agents, at least one, are ready and no unknown key is waiting."""
    return {"ready"} <= {row.state for row in rows} <= {"ready", "extra"}


def not_heard(agent: Mapping[str, Any]) -> str:
    """Of an expected agent that this coordinator has not heard since its start."""
    at = agent.get("last_heard")
    return f"not heard since {'the coordinator was started' if at is None else moment(at)}"


def _known(name: str, host: str, agent: Mapping[str, Any], again: str) -> Presence:
    state, advice = _judge(agent)
    if state == "ready" and agent.get("cordoned"):
        state, advice = "cordoned", f"to invite it again: flctl uncordon {name}{again}"
    return Presence(name, host, state, agent["version"], advice)


def _drifted(row: Presence, differences: tuple[Difference, ...], deploy: str) -> Presence:
    """`deploy`: the command that sets it right; "" where the playbooks did not set it up."""
    if not differences:
        return row
    advice = "; ".join(filter(None, (row.advice, ", ".join(map(str, differences)))))
    if deploy and row.state == "ready":
        advice += f"; run: {deploy}"
    return replace(row, advice=advice, drift=differences)


def _judge(agent: Mapping[str, Any]) -> tuple[State, str]:
    said = agent["state"]
    note = agent["note"] or agent["last_error"] or ""
    if said in WORKING:
        return "ready", ""
    if said in _ADVICE:
        return said, note or _ADVICE[said]
    if agent["last_seen_s"] is None and agent.get("expected"):  # an older coordinator has it not
        return "lost", f"{not_heard(agent)}: check its power, its network and the agent's log"
    if agent["last_seen_s"] is None:
        return (
            "missing",
            "enrolled, never seen: check that the agent runs and that its server key is right",
        )
    ago = f"{span(agent['last_seen_s'])} ago"
    if said == "stopped":
        return said, f"shut down {ago}: start its agent again"
    return "lost", f"last seen {ago}: check its power, its network and the agent's log"


def _stranger(
    expected: Expected, strangers: Sequence[str], waiting: Sequence[str], again: str
) -> Presence:
    """An agent of the inventory whose name no key has."""
    name, host = expected.name, expected.host
    if not waiting:
        advice = "not enrolled, and no key is waiting: start its agent, then "
        return Presence(name, host, "missing", None, f"{advice}flctl keys add {name} KEY{again}")
    if len(waiting) == len(strangers) == 1:
        key = waiting[0]  # anyone can connect: only a look at the host shows whose key it is
        advice = f"if agent.pub on {host} says {key}: flctl keys add {name} {key}{again}"
        return Presence(name, host, "waiting key", None, advice)
    advice = "see agent.pub there for which waiting key it is, then "
    return Presence(name, host, "waiting key", None, f"{advice}flctl keys add {name} KEY{again}")


def _shut_out(expected: Expected, again: str) -> Presence:
    name, host = expected.name, expected.host
    advice = "its key was revoked: remove it from the inventory, or enrol it with "
    return Presence(name, host, "revoked", None, f"{advice}flctl keys add {name} KEY{again}")


def _extra(agent: Mapping[str, Any], revoke: str | None) -> Presence:
    """`revoke`: what follows the command to revoke it; None where revoking is not the right
    advice."""
    name, version = agent["name"], agent["version"]
    said = agent["state"] if version else "never seen"
    other = "name the right one" if revoke is None else f"flctl keys revoke {name}{revoke}"
    advice = f"not in the inventory ({said}): add it there, or {other}"
    return Presence(name, None, "extra", version, advice)


def _unknown(key: str, again: str) -> Presence:
    advice = f"an unknown key; if you know whose: flctl keys add NAME {key}{again}"
    return Presence(None, None, "waiting key", None, advice)
