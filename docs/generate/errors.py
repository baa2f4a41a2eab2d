"""Every kind of error: what it means, the exit code it ends a command with, and what to do."""

import inspect
import re
from collections.abc import Iterator

from flctl import errors
from generate import fields
from generate.plain import code, markdown, table

DONE = fields.WORDS["errors"]
_TREE = re.compile(r"^[ │├└─]*(\w+)  +(\S.*)$", re.MULTILINE)


def kinds(of: type[errors.FlctlError] = errors.FlctlError) -> Iterator[type[errors.FlctlError]]:
    """Each once, those that are derived of another after it."""
    yield of
    for each in of.__subclasses__():
        if each.__bases__[0] is of and each.__module__ == errors.__name__:
            yield from kinds(each)


def meaning(kind: type[errors.FlctlError]) -> str:
    tree = dict(_TREE.findall(inspect.getdoc(errors) or ""))
    text = tree.get(kind.__name__, "")
    return re.sub(r"^exit code \d: ", "", text) or " ".join((vars(kind)["__doc__"] or "").split())


def missing() -> list[str]:
    return [f"{each.__name__}: what it means" for each in kinds() if not meaning(each)] + [
        f"{each.__name__}: what to do" for each in kinds() if not DONE.get(each.__name__)
    ]


def page() -> str:
    rows = []
    for kind in kinds():
        depth = len(kind.__mro__) - len(errors.FlctlError.__mro__)
        text = meaning(kind)
        text = text[0].upper() + text[1:].removesuffix(".")
        rows.append(
            (f"{'– ' * depth}{code(kind.__name__)}", str(kind.exit_code), f"{markdown(text)}.",
             DONE[kind.__name__])
        )  # fmt: skip
    return table(("error", "exit code", "what happened", "what to do"), rows)
