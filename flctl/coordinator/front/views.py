"""Agents and keys as `--json` shows them."""

from collections.abc import Sequence
from typing import Any

import msgspec

from flctl.core.labelling import Labelling
from flctl.core.roster import Member
from flctl.transport.allowlist import EVALUATE, Entry
from flctl.transport.keys import Keyring, Waiting
from flctl.wire.messages import Telemetry


def shown_key(entry: Entry) -> dict[str, Any]:
    """An enrolled key, as `flctl keys list --json` shows it."""
    return {
        "name": entry.name,
        "role": EVALUATE if entry.evaluates else entry.role,
        "public_key": entry.key,
        "added": entry.added,
        "shard": None if entry.shard is None else str(entry.shard),
    }


def shown_tokens(keyring: Keyring) -> list[dict[str, Any]]:
    """The open join tokens, as `flctl keys tokens --json` shows them; none can be joined with."""
    now = keyring.now
    return [
        {
            "id": token.id,
            "opened": token.opened,
            "expires": token.expires,
            "closes_in_s": round(token.expires - now, 1),
            "uses_left": token.uses_left,
            "deal": None if token.deal is None else msgspec.to_builtins(token.deal),
            "role": EVALUATE if token.evaluates else "agent",
            "by": token.by or None,
        }
        for token in keyring.open_tokens()
    ]


def shown_shards(keyring: Keyring) -> dict[str, int] | None:
    """Number of parts of the last division of data, and how many have an owner; None: never
    divided."""
    dealt = [(entry.added, entry.shard) for entry in keyring.entries() if entry.shard]
    if not dealt:
        return None
    _, newest = max(dealt, key=lambda each: each[0])
    return {"of": newest.of, "dealt": sum(shard.deal == newest.deal for _, shard in dealt)}


def shown_waiting(waiting: Waiting) -> dict[str, Any]:
    """An unknown key that has knocked."""
    return {
        "public_key": waiting.key,
        "first_seen": waiting.first_seen,
        "last_seen": waiting.last_seen,
        "count": waiting.count,
    }


def agent_status(
    member: Member,
    now: float,
    cordoned: bool = False,
    in_run: bool = True,
    labelling: Labelling | None = None,
    alerts: Sequence[str] = (),
) -> dict[str, Any]:
    """One agent as `flctl status --json` shows it. What it still offers while no run is in progress
    is of a run that was stopped: it can be asked for something else."""
    hello, telemetry = member.hello, member.telemetry
    labels = labelling or Labelling()
    device = hello.device if hello else None
    offers_only = member.state == "offering" and not in_run
    shown: dict[str, Any] = {
        "name": member.name,
        "state": "ready" if offers_only else member.state,
        "ready": member.ready,
        "cordoned": cordoned,
        "labels": labels.of(member.name),
        "own_labels": labels.own.get(member.name, {}),
        "protocol": member.protocol or None,
        **{
            name: getattr(hello, name, None)
            for name in ("version", "role", "image", "settings", "log")
        },
        **{
            name: getattr(device, name, None) for name in ("kind", "arch", "cores", "torch", "cuda")
        },
        "tasks": dict(hello.tasks) if hello else {},
        "datasets": hello.datasets if hello else (),
        "limits": hello.limits if hello else None,
        "examples": max((d.examples for d in hello.datasets), default=0) if hello else 0,
        "rtt_ms": member.rtt_ms,
        "last_seen_s": round(now - member.heard_at, 1) if member.heard_at > 0 else None,
        "last_round": member.last_round,
        "progress": member.progress,
        "alerts": tuple(alerts),
        "last_error": member.error,
        "note": member.note or (member.elsewhere[1] if member.elsewhere else None),
        **{name: getattr(telemetry, name, None) for name in Telemetry.__struct_fields__},
    }
    return dict(msgspec.to_builtins(shown))
