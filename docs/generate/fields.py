"""Fields of a Struct as rows of a table: name, type in words, default, and what it means.

The text is the docstring below the field; else that of `words.toml` under the struct's name, or
under `common` for names that mean the same everywhere.
"""

import ast
import importlib
import inspect
import textwrap
import tomllib
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from msgspec import inspect as types

from generate.plain import code, markdown, table

WORDS: dict[str, dict[str, Any]] = tomllib.loads(
    Path(__file__).with_name("words.toml").read_text(encoding="utf-8")
)


class Field(NamedTuple):
    name: str
    """As it is written in JSON or TOML."""
    type: str
    """In Markdown."""
    default: str
    text: str


def struct(path: str) -> type[msgspec.Struct]:
    """`flctl.core.events:Score`. What comes with an extra is not needed for it."""
    module, name = path.split(":")
    found: type[msgspec.Struct] = getattr(importlib.import_module(module), name)
    return found


@cache
def fields(kind: type[msgspec.Struct]) -> tuple[Field, ...]:
    written = docstrings(kind)
    described: Any = types.type_info(kind)
    by_name = {each.name: each for each in described.fields}
    return tuple(
        Field(
            each.encode_name,
            _type(by_name[each.name].type),
            _default(each),
            written.get(each.name) or word(kind, each.name),
        )
        for each in msgspec.structs.fields(kind)
    )


def word(kind: type, name: str) -> str:
    for each in kind.__mro__:
        text = WORDS.get(each.__name__, {}).get(name)
        if text:
            return str(text)
    return str(WORDS["common"].get(name, ""))


def without_text(kind: type[msgspec.Struct]) -> list[str]:
    return [f"{kind.__name__}.{each.name}" for each in fields(kind) if not each.text.strip()]


def sections(kinds: Iterable[type[msgspec.Struct]], more: Mapping[str, str]) -> list[str]:
    """One for each of them, in the order of their names; `more` follows that of this name."""
    parts = []
    for kind in sorted(kinds, key=lambda each: each.__name__):
        parts += [f"### {kind.__name__}", as_table(kind), more.get(kind.__name__, "")]
    return parts


def as_table(kind: type[msgspec.Struct], defaults: bool = False) -> str:
    """`defaults`: with a column for them."""
    head = ("field", "type", *(("default",) if defaults else ()), "meaning")
    rows = [
        (code(f.name), f.type, *((f.default,) if defaults else ()), markdown(f.text))
        for f in fields(kind)
    ]
    return table(head, rows)


def inner(kind: type[msgspec.Struct]) -> list[type[msgspec.Struct]]:
    """Structs that its fields hold, in the order of the fields, each once."""
    found: dict[type[msgspec.Struct], None] = {}

    def look(described: Any) -> None:
        if isinstance(described, types.StructType):
            found.setdefault(described.cls)
        for name in ("type", "item_type", "key_type", "value_type"):
            if (part := getattr(described, name, None)) is not None:
                look(part)
        for part in (*getattr(described, "types", ()), *getattr(described, "item_types", ())):
            look(part)

    described: Any = types.type_info(kind)
    for each in described.fields:
        look(each.type)
    return list(found)


def with_inner(kinds: list[type[msgspec.Struct]]) -> list[type[msgspec.Struct]]:
    """All that they hold, at any depth, after them."""
    found = dict.fromkeys(kinds)
    waiting = list(kinds)
    while waiting:
        for each in inner(waiting.pop(0)):
            if each not in found:
                found[each] = None
                waiting.append(each)
    return list(found)


def anchor(kind: type) -> str:
    return kind.__name__.lower()


def docstrings(kind: type) -> dict[str, str]:
    """Texts in quotes below fields, those of base classes too."""
    found: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        if not issubclass(each, msgspec.Struct) or each is msgspec.Struct:
            continue
        (body,) = ast.parse(textwrap.dedent(inspect.getsource(each))).body
        assert isinstance(body, ast.ClassDef)
        for before, line in zip(body.body, body.body[1:], strict=False):
            if (
                isinstance(before, ast.AnnAssign)
                and isinstance(before.target, ast.Name)
                and isinstance(line, ast.Expr)
                and isinstance(line.value, ast.Constant)
                and isinstance(line.value.value, str)
            ):
                found[before.target.id] = " ".join(line.value.value.split())
    return found


def _default(field: Any) -> str:
    if field.required:
        return "required"
    if field.default_factory is not msgspec.NODEFAULT:
        value = field.default_factory()
    else:
        value = field.default
    if value is None:
        return "none"
    if isinstance(value, msgspec.Struct):
        return "its own defaults"
    return code(msgspec.json.encode(value).decode())


_PLAIN = {
    types.AnyType: "anything", types.BoolType: "true or false", types.NoneType: "null",
    types.IntType: "whole number", types.FloatType: "number", types.StrType: "text",
    types.BytesType: "bytes",
}  # fmt: skip
_BOUNDS = (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"))
_LARGE = 10**6
"""Larger bounds keep a program from harm, and tell a person nothing."""


def _type(described: Any) -> str:  # noqa: PLR0911  # one for each kind of type
    if isinstance(described, types.Metadata):
        return _type(described.type)
    if isinstance(described, types.UnionType):
        said = list(dict.fromkeys(_type(each) for each in described.types))
        if "number" in said and "whole number" in said:
            said.remove("whole number")
        return " or ".join(said)
    if isinstance(described, types.LiteralType):
        return ", ".join(code(msgspec.json.encode(each).decode()) for each in described.values)
    if isinstance(described, types.EnumType):
        return ", ".join(code(str(each.value)) for each in described.cls)
    if isinstance(described, types.StructType):
        name = described.cls.__name__
        return "table" if name.endswith("Settings") else f"[{name}](#{anchor(described.cls)})"
    if isinstance(described, types.DictType):
        return f"object: name → {_type(described.value_type)}"
    if isinstance(described, (types.ListType, types.VarTupleType, types.SetType)):
        return f"list of {_type(described.item_type)}"
    if isinstance(described, types.TupleType):
        return "list: " + ", ".join(_type(each) for each in described.item_types)
    if isinstance(described, types.CustomType):
        return "text"  # a path
    said = _PLAIN[type(described)]
    bounds = [
        f"{sign} {bound}"
        for name, sign in _BOUNDS
        if (bound := getattr(described, name, None)) is not None
        and abs(bound) < _LARGE
        and not (name == "ge" and bound == 0)
    ]
    return f"{said} {', '.join(bounds)}" if bounds else said
