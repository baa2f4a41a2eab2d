"""msgspec's messages about a key, in the terms of the file's author."""

from collections.abc import Mapping
from typing import get_args, get_type_hints

import msgspec

from flctl.errors import one_line
from flctl.labels import WRITE


def explained_key(
    error: msgspec.ValidationError, kind: type[msgspec.Struct], words: Mapping[str, str]
) -> str:
    """ "Expected `int` >= 1 - at `$.rounds`" as "rounds: expected `int` >= 1"; `words` are those
    that a person writes for some of the keys of `kind`."""
    text, _, place = one_line(error).partition(" - at `$.")
    if not place:
        return text
    name = place.rstrip("`")
    key = words.get(name, name)
    if "matching regex" in text and name.startswith("where"):
        text = f"not a requirement on labels: write {WRITE}"
    elif "matching regex" in text and name != "annotator":
        text = "not a name: up to 63 of a-z 0-9 . _ - with a letter or digit first"
    choices = get_args(get_type_hints(kind).get(name))
    if "enum value" in text and choices:
        text += f"; it is one of {', '.join(map(str, choices))}"
    return f"{key}: {text[0].lower()}{text[1:]}"
