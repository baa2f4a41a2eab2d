"""Who should be there and who is, as a table."""

from collections.abc import Iterable

from rich.text import Text

from flctl.fleet.discovery import Presence
from flctl.terminal.output import table
from flctl.terminal.tables import Table

STYLES = {"ready": "green", "starting": "cyan"} | dict.fromkeys(
    ("stopped", "extra", "waiting key", "cordoned"), "yellow"
)


def presence_table(rows: Iterable[Presence]) -> Table:
    made = table(
        "agent", "host", "state", "version", "~what to do",
        yields=("version", "host"), note_lines=None,
    )  # fmt: skip
    for row in rows:
        state = Text(row.state, style=STYLES.get(row.state, "red"))
        made.add_row(row.name or "?", row.host or "-", state, row.version or "-", row.advice)
    return made
