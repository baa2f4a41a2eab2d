"""Names in the class of a task that neither flctl nor its own code reads: misspelt settings, or
guessed ones, which would change nothing without a word."""

import difflib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from flctl.errors import FlctlError
from flctl.learning.registry import covered
from flctl.settings import RunSettings

if TYPE_CHECKING:
    from flctl.learning.task import Task

NEAR = 0.8
NEAR_SETTING = 0.65
"""A value that is read nowhere was meant as a setting, so that less of its name has to fit."""


def unread(ref: str, found: "type[Task]") -> dict[str, str]:
    """Public names that are read nowhere, each with the nearest name that flctl knows; an empty
    string where none is near."""
    known: set[str] = set()
    for base in found.__mro__:
        if base.__module__.partition(".")[0] in ("flctl", "builtins"):
            known |= {*vars(base), *vars(base).get("__annotations__", ())}
    own = [n for n in vars(found) if not n.startswith("_") and n not in known]
    own = [name for name in own if not isinstance(vars(found)[name], property)]
    if not own or found.__module__.partition(".")[0] == "flctl":
        return {}
    source = _source(ref)
    near: dict[str, str] = {}
    for name in own:
        if re.search(rf"\.{name}\b|['\"]{name}['\"]", source):
            continue
        if name in RunSettings.__struct_fields__:
            near[name] = f"defaults = {{'{name}': …}}"
            continue
        is_method = callable(getattr(found, name))
        public = [each for each in known - {"args"} if not each.startswith("_")]
        cutoff = NEAR if is_method else NEAR_SETTING
        close = difflib.get_close_matches(name, sorted(public), n=1, cutoff=cutoff)
        if close or not is_method:  # a method may be there for a program of the user's
            near[name] = close[0] if close else ""
    return near


def _source(ref: str) -> str:
    """All that the task's digest covers."""
    try:
        root = covered(ref)
    except FlctlError:
        return ""
    files = [root] if root.is_file() else sorted(root.rglob("*.py"))
    return "\n".join(map(_text, files))


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
