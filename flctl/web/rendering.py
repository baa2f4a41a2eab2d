"""Templates. Whatever comes from an agent, a run or a file is text here: escaped as HTML, and what
would steer the direction of writing or a terminal is made visible."""

import time
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from flctl import __version__
from flctl.core.metrics import label
from flctl.errors import printable
from flctl.formats import counted, few, figure, moment, size, span
from flctl.web import words

FOLDER = Path(__file__).parent
MOST_TEXT = 4_000
"""Characters of one text of a stranger."""


def plain(value: Any) -> Any:
    """Every value that a template shows comes through here, before it is escaped."""
    if value is None:
        return "-"
    if isinstance(value, str) and not isinstance(value, Markup):
        cut = value if len(value) <= MOST_TEXT else f"{value[:MOST_TEXT]} …"
        return printable(cut)
    return value


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=plain,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "figure": figure, "size": size, "span": span, "moment": moment, "few": few,
        "label": label, "counted": counted, "sentence": words.sentence, "alert": words.alert,
        "stamp": words.stamp, "pairs": words.pairs,
    }  # fmt: skip
    environment.globals |= {"version": __version__, "words": words, "now": time.time}
    return environment


def render(template: str, **values: Any) -> str:
    return _environment().get_template(template).render(**values)
