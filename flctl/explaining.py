"""What is wrong with a key of a settings file, in the terms of its author, with an example."""

import difflib
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import msgspec
from msgspec.structs import FieldInfo, fields

from flctl.errors import SettingsError, one_line
from flctl.files import read_small
from flctl.labels import SYNTAX, WRITE

TYPES = {
    "str": "text in quotation marks", "int": "a whole number", "float": "a number",
    "array": "a list", "object": "a table", "null": "nothing", "bool": "true or false",
}  # fmt: skip


def explained_key(
    error: msgspec.ValidationError, kind: type[msgspec.Struct], words: Mapping[str, str]
) -> str:
    """ "Expected `int` >= 1 - at `$.rounds`" as "rounds: must be a whole number >= 1; for instance
    30"; `words` are those that a person writes for some of the keys of `kind`."""
    parts = re.fullmatch(r"(.*) - at (?:`key` in )?`\$\.?(.*)`", str(error), re.DOTALL)
    text, key = parts.groups() if parts else (str(error), "")
    about, _, name = text.rstrip("`").partition(" field `")
    if about == "Object contains unknown":
        near = difflib.get_close_matches(name, _fields(_look_up(kind, key)[0]), n=1)
        then = f"; did you mean '{near[0]}'?" if near else ""
        return f"unknown key '{one_line(name, 60)}'{key and f' in [{key}]'}{then}"
    if about == "Object missing required":
        key, text = f"{key}.{name}".strip("."), "is missing"
    hint, rule, example = _look_up(kind, key)
    if rule and text != "is missing":
        text = "Expected " + rule + "".join(re.findall(", got `.*", text))
    if text.startswith("Invalid enum value "):
        choices = ", ".join(re.findall("'(.*?)'", str(hint)))
        text = f"{one_line(text[19:], 60)} is unknown; it is one of {choices}"
    elif "matching regex" in text:
        text = "not a name: up to 63 of a-z 0-9 . _ - with a letter or digit first"
        if key.startswith("where"):
            text = f"not a requirement on labels: write {WRITE}"
        elif key.startswith("labels"):
            text = f"not a label: key and value have {SYNTAX}"
    else:
        text = re.sub("`(.*?)`", lambda type_: _type(type_[1]), text) + example
        text = text.replace("Expected", "must be", 1).replace(", got ", ", not ", 1)
        text = text.replace("number, not a number", "number, without a decimal point")
    return f"{words.get(key, key)}: {one_line(text)}" if key else one_line(text)


def read_table(path: Path, kind: type[msgspec.Struct], whose: str) -> tuple[dict[str, Any], str]:
    """A TOML file with keys of `kind`, and its text. Raises SettingsError with file and line."""
    try:
        text = read_small(path).decode("utf-8-sig")  # some editors begin with a mark
        return tomllib.loads(f"{text}\n"), text
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise SettingsError(f"{path}: cannot read {whose} settings: {reason}") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        line = re.search(r"\(at line (\d+),", str(error))
        lines = text.split("\n")[: int(line[1])] if line else [""]
        heads = re.findall(r"^\s*\[+\s*([^\]]+?)\s*\]", "\n".join(lines), re.MULTILINE)
        key = ".".join(heads[-1:] + re.findall(r"^\s*([\w.\"'-]+)\s*=", lines[-1]))
        _, rule, example = _look_up(kind, key)
        then = f"; {key} must be {rule}{example}" if rule else ""
        if line and str(error).startswith(("Cannot", "Duplicate")):
            raise SettingsError(f"{path}, line {line[1]}: {key} is set twice{then}") from error
        raise SettingsError(f"{path}: not TOML: {error}{then}") from error


def _fields(hint: Any) -> dict[str, FieldInfo]:
    """Those of the struct that a value of this type may be."""
    kinds = (each for each in (hint, *get_args(hint)) if hasattr(each, "__struct_fields__"))
    return {field.encode_name: field for each in kinds for field in fields(each)}


def _look_up(kind: Any, key: str) -> tuple[Any, str, str]:
    """The type of this key; what it may be, if that has a description; an example to append."""
    hint, value = kind, None
    for name in filter(None, key.partition("[")[0].split(".")):
        if (field := _fields(hint).get(name)) is None:
            return None, "", ""
        hint, value = field.type, field.default
    metas = [m for each in (hint, *get_args(hint)) for m in getattr(each, "__metadata__", ())]
    rule = next((meta.description for meta in metas if meta.description), "")
    value = next((each for meta in metas for each in meta.examples or ()), value)
    if value in (None, (), "", msgspec.NODEFAULT) or isinstance(value, msgspec.Struct):
        return hint, rule, ""
    return hint, rule, f"; for instance {msgspec.json.encode(value).decode()}"


def _type(names: str) -> str:
    kinds = {name.strip() for name in names.split("|")}
    if len(kinds) > 1:
        kinds -= {"null", *({"int"} if "float" in kinds else ())}
    return " or ".join(words for name, words in TYPES.items() if name in kinds) or names
