"""Keys and join tokens on the terminal."""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flctl.formats import counted, few, span
from flctl.terminal.output import table
from flctl.terminal.tables import Table
from flctl.transport.keypair import shown

KEYS = ("server_key", "public_key", "new_key")


def keys_table(keys: Sequence[Mapping[str, Any]], revoked: Iterable[Mapping[str, Any]]) -> Table:
    dealt = any(entry.get("shard") for entry in keys)
    made = table("name", "role", "public key", *(["shard"] if dealt else []))
    for entry in keys:
        part = [entry.get("shard") or "-"] if dealt else []
        made.add_row(entry["name"], entry["role"], entry["public_key"], *part)
    for entry in revoked:
        blank = ["-"] if dealt else []
        made.add_row(entry["name"], "revoked", entry["public_key"], *blank)
    return made


def tokens_table(tokens: Iterable[Mapping[str, Any]]) -> Table:
    made = table("token", "closes in", ">uses left", "role", "deals", "created", "by")
    for each in tokens:
        dealt = each["deal"]
        made.add_row(
            each["id"],
            span(each["closes_in_s"]),
            str(each["uses_left"]),
            each.get("role", "agent"),
            "-" if dealt is None else f"{counted(dealt['of'], 'shard')}, {dealt['partition']}",
            time.strftime("%Y-%m-%d %H:%M", time.localtime(each["opened"])),
            each["by"] or "-",
        )
    return made


def shown_keys(found: Any) -> Any:
    """An answer with its keys as people see them; `z85` has the form of the files of older
    versions, for comparison."""
    if isinstance(found, list):
        return [shown_keys(part) for part in found]
    if not isinstance(found, Mapping):
        return found
    made = {k: shown(v) if k in KEYS and v else shown_keys(v) for k, v in found.items()}
    if "public_key" in found:
        made["z85"] = found["public_key"]
    return made


def open_tokens(tokens: Sequence[Mapping[str, Any]], options: str = "") -> str:
    """A line that warns while join tokens are open, else "". `options` follow the command."""
    if not tokens:
        return ""
    uses = counted(sum(token["uses_left"] for token in tokens), "use")
    last = span(max(token["closes_in_s"] for token in tokens))
    number = counted(len(tokens), "join token")
    return f"{number} open, {uses} left, closing within {last}: flctl keys tokens{options}"


def key_rotation(rotation: Mapping[str, Any], options: str = "") -> str:
    """A line about a server key that is being replaced. `options` follow the command."""
    missing = list(rotation["missing"])
    have = counted(rotation["have"], "agent")
    line = f"the server key is being replaced: {have} with the new one"
    if missing:
        line += f", not yet {few(missing)}"
    left = span(max(0.0, rotation["ends_in_s"]))
    return f"{line}; the old one is valid for {left}: flctl keys rotate-server{options} --finish"


def server_keys(found: Mapping[str, Any], overlap: str, options: str) -> str:
    """The server's key, or both while one replaces the other. `options` follow the command."""
    key = f"server key  {found['server_key']}"
    if (rotation := found["rotation"]) is None:
        return f"{key}, and no other one is valid"
    new = f"new key     {rotation['new_key']}"
    return f"{key}, and for {overlap} as well\n{new}\n{key_rotation(rotation, options)}"
