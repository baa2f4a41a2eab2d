"""What each command prints with `--json`, and the objects in it."""

import tomllib
from pathlib import Path
from typing import Any

import msgspec

from generate import commands, fields
from generate.plain import code, table

ANSWERS: dict[str, Any] = tomllib.loads(
    Path(__file__).with_name("answers.toml").read_text(encoding="utf-8")
)
ALSO: dict[str, dict[str, str]] = ANSWERS.pop("also")
"""Fields that a coordinator adds to those that a struct reads, by its name."""
NAMED = (
    "flctl.learning.manifest:Manifest", "flctl.learning.origin:Origin", "flctl.fleet.replay:Row",
    "flctl.learning.checkup:Finding", "flctl.core.chain:Chain", "flctl.core.events:Score",
)  # fmt: skip
"""Structs that stand in texts only."""


def with_json() -> list[str]:
    """The commands that have the option."""
    return [
        found.name
        for found in commands.every()
        if any("--json" in each.opts for each in found.options)
    ]


def structs() -> list[type[msgspec.Struct]]:
    named = [answer["of"] for answer in ANSWERS.values() if "of" in answer]
    return fields.with_inner([fields.struct(path) for path in dict.fromkeys([*named, *NAMED])])


def missing() -> list[str]:
    lack = [name for name in with_json() if not ANSWERS.get(name, {}).get("says")]
    lack += [f"{name}: there is no such command" for name in ANSWERS.keys() - set(with_json())]
    return lack + [each for kind in structs() for each in fields.without_text(kind)]


def page() -> str:
    parts = []
    for name in with_json():
        answer = ANSWERS[name]
        parts += [f"## {name}", answer["says"]]
        if "of" in answer:
            kind = fields.struct(answer["of"])
            parts.append(
                f"Fields: [{kind.__name__}](#{fields.anchor(kind)})"
                + (", and" if "also" in answer else ".")
            )
        if "also" in answer:
            parts.append(_table(answer["also"]))
    new = "A newer version may add fields; ignore those that you do not know."
    return "\n\n".join([*parts, "## Objects", new, *fields.sections(structs(), _further())])


def further(kind: type) -> set[str]:
    """Names of fields that a coordinator adds."""
    return {name for each in kind.__mro__ for name in ALSO.get(each.__name__, {})}


def _further() -> dict[str, str]:
    """What a coordinator adds to each struct, and to those that are derived of it."""
    found = {}
    for kind in structs():
        also: dict[str, str] = {}
        for each in kind.__mro__:
            also |= ALSO.get(each.__name__, {})
        if also:
            found[kind.__name__] = f"A coordinator adds:\n\n{_table(also)}"
    return found


def _table(rows: dict[str, str]) -> str:
    return table(("field", "meaning"), [(code(name), text) for name, text in rows.items()])
