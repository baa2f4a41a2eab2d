"""Every variable of the playbooks: those of the roles, and those that playbooks read themselves."""

import re
from pathlib import Path
from typing import Any

import yaml

from generate import fields
from generate.plain import code, markdown, table

FOLDER = Path(__file__).resolve().parents[2] / "ansible"
VARIABLES = fields.WORDS["variables"]
"""Text of those that belong to no role."""
_READ = re.compile(r"\b(flctl_[a-z_]+)(?:\s*\|\s*default| is defined)")
_SET = re.compile(r"(?:register: |^\s*)(flctl_\w+)(?=:|$)", re.MULTILINE)


def roles() -> dict[str, dict[str, Any]]:
    """The options of each role, as its `argument_specs` declare them."""
    return {
        path.parts[-3]: yaml.safe_load(path.read_text())["argument_specs"]["main"]
        for path in sorted(FOLDER.glob("roles/*/meta/argument_specs.yml"))
    }


def defaults(role: str) -> dict[str, Any]:
    path = FOLDER / "roles" / role / "defaults/main.yml"
    return dict(yaml.safe_load(path.read_text()) or {}) if path.exists() else {}


def of_no_role() -> set[str]:
    """Variables that are read with a default, and that neither a role nor a play sets."""
    read: set[str] = set()
    known = {name for spec in roles().values() for name in spec.get("options", {})}
    for path in FOLDER.rglob("*.yml"):
        text = path.read_text()
        read |= set(_READ.findall(text))
        if not {"defaults", "meta", "example"} & set(path.parts):
            known |= set(_SET.findall(text))
    return read - known


def missing() -> list[str]:
    lack = [
        f"{role}: {name}"
        for role, spec in roles().items()
        for name in {**spec.get("options", {}), **defaults(role)}
        if not spec.get("options", {}).get(name, {}).get("description")
    ]
    lack += [f"{name}: no text" for name in of_no_role() if not VARIABLES.get(name)]
    return lack


def page() -> str:
    rows = [(code(name), markdown(text)) for name, text in sorted(VARIABLES.items())]
    parts = ["## Of all playbooks", table(("variable", "meaning"), rows)]
    for role, spec in roles().items():
        given = defaults(role)
        rows = [
            (code(name), about["type"], _default(given.get(name)), _text(about))
            for name, about in spec.get("options", {}).items()
        ]
        head = ("variable", "type", "default", "meaning")
        parts += [f"## {role}", markdown(spec["short_description"] + "."), table(head, rows)]
    return "\n\n".join(parts)


def _default(value: Any) -> str:
    if isinstance(value, str) and "{{" in value:
        return "computed"
    if value in ("", None):
        return "none"
    return code(str(value).lower() if isinstance(value, bool) else str(value))


def _text(about: dict[str, Any]) -> str:
    text = about["description"]
    return markdown(" ".join(text) if isinstance(text, list) else text)
