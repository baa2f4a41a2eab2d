"""The events of a run, those of its journal and those that are live only."""

from typing import get_args

import msgspec

from flctl.core import events, stream
from generate import fields
from generate.plain import markdown

JOURNALED: tuple[type[msgspec.Struct], ...] = get_args(events.AnyEvent)
LIVE: tuple[type[msgspec.Struct], ...] = get_args(stream.AnyLive)


def tag(kind: type[msgspec.Struct]) -> str:
    return str(kind.__struct_config__.tag)


def missing() -> list[str]:
    lack = [f"{tag(kind)}: no sentence" for kind in (*JOURNALED, *LIVE) if not _about(kind)]
    held = fields.with_inner([*JOURNALED, *LIVE, stream.Published])
    return lack + [each for kind in held for each in fields.without_text(kind)]


def page() -> str:
    parts = ["## Events of the journal"]
    parts += [part for kind in JOURNALED for part in _section(kind)]
    parts += ["## Live events", "They are in no journal, and only who follows a run gets them."]
    parts += [part for kind in LIVE for part in _section(kind)]
    held = [
        each for each in fields.with_inner([*JOURNALED, *LIVE]) if each not in (*JOURNALED, *LIVE)
    ]
    return "\n\n".join([*parts, "## Objects", *fields.sections(held, {})])


def _section(kind: type[msgspec.Struct]) -> list[str]:
    return [f"### {tag(kind)}", markdown(_about(kind)), fields.as_table(kind)]


def _about(kind: type[msgspec.Struct]) -> str:
    own = vars(kind).get("__doc__") or ""
    return " ".join(own.split()) or fields.WORDS["events"].get(tag(kind), "")
