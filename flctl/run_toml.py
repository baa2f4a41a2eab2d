"""The settings of a run as TOML: a file that a person writes, and `run.toml` of a run's folder."""

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import msgspec

from flctl.errors import SettingsError
from flctl.explaining import read_table
from flctl.settings import KEYS, SCHEMA, RunSettings, normalised, parse


def read_toml(path: Path, beside: Collection[str] = ()) -> dict[str, Any]:
    """The keys of a run's TOML file, written by hand or by `to_toml`; `beside` as above.

    Raises SettingsError with file and line.
    """
    table, text = read_table(path, RunSettings, "the run's")
    if "schema" in table:
        _check_schema(table, path)
    try:
        return normalised(table, str(path), beside)
    except SettingsError as error:
        unknown = re.search(r"unknown key '([^']+)'", str(error))
        line = _line_of(text, unknown[1]) if unknown else None
        if line is None:
            raise
        rest = str(error).removeprefix(f"{path}: ")
        raise SettingsError(f"{path}, line {line}: {rest}") from error


def to_toml(settings: RunSettings) -> str:
    """`settings` as TOML text, one key a line, `schema` first; keys without value left out."""
    lines = [f"schema = {SCHEMA}"]
    tables: list[str] = []
    for name in KEYS:
        value = getattr(settings, name)
        if isinstance(value, dict):
            if value:
                tables.append(f"\n[{name}]")
                items = sorted(value.items())
                tables += [f"{toml_value(key)} = {toml_value(item)}" for key, item in items]
        elif value is not None:
            lines.append(f"{name} = {toml_value(value)}")
    return "\n".join([*lines, *tables]) + "\n"


def from_toml(path: Path) -> RunSettings:
    """Read back what `to_toml` wrote. Raises SettingsError, also for another schema."""
    table, _ = read_table(path, RunSettings, "the run's")
    _check_schema(table, path)
    return parse(table, str(path))


def _check_schema(table: dict[str, Any], path: Path) -> None:
    schema = table.pop("schema", None)
    if schema not in (1, SCHEMA):  # their keys are the same
        raise SettingsError(f"{path}: schema {schema}, this version reads 1 and {SCHEMA}")


def _line_of(text: str, key: str) -> int | None:
    for number, line in enumerate(text.splitlines(), start=1):
        if re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=", line) or line.strip() == f"[{key}]":
            return number
    return None


def toml_value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # A TOML basic string is a JSON string, but for DEL.
        return msgspec.json.encode(value).decode().replace("\x7f", "\\u007f")
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    return repr(value)
