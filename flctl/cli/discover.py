"""`flctl discover`: the agents that should be there, and those that are."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from flctl.cli.finding import coordinator
from flctl.cli.options import Context, Json, State, again, state_folder

STYLES = {
    "ready": "green",
    "starting": "cyan",
    "stopped": "yellow",
    "extra": "yellow",
    "waiting key": "yellow",
    "cordoned": "yellow",
}


def discover(
    inventory: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            envvar="FLCTL_INVENTORY",
            help="Ansible inventory, or the JSON of ansible-inventory --list: the hosts of "
            "its group flctl_agents, or all. Without it those who are enrolled are expected.",
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="End with exit code 1 unless all are ready.")
    ] = False,
    state: State = None,
    context: Context = None,
    json: Json = False,
) -> None:
    """Compare who should be there with who is, and say what to do."""
    from rich.text import Text

    from flctl.cli.keys import open_doors
    from flctl.fleet.discovery import all_ready, compare, enrolled, too_many
    from flctl.fleet.inventory import read_inventory
    from flctl.terminal import output

    expected = None if inventory is None else read_inventory(inventory)
    with coordinator(state_folder(state), context) as console:
        status = console.status()
    options = again(state, context)
    # Ansible does not take the list that it has written for an inventory.
    named = (
        "FILE" if inventory is None or inventory.suffix == ".json" else shlex.quote(str(inventory))
    )
    rows = compare(enrolled(status) if expected is None else expected, status, options, named)
    if json:
        output.print_json(rows)
    elif not rows:
        output.print_line(
            "no agent is expected, and none is there: make a token for new ones with: "
            f"flctl keys token{options}"
        )
    else:
        made = output.table(
            "agent", "host", "state", "version", "~what to do",
            yields=("version", "host"), note_lines=None,
        )  # fmt: skip
        for row in rows:
            shown = Text(row.state, style=STYLES.get(row.state, "red"))
            made.add_row(
                row.name or "?", row.host or "-", shown, row.version or "-", Text(row.advice)
            )
        output.show(made)
    if not json and (line := too_many(status)):
        output.print_line(line)
    if not json and (line := open_doors(status.get("tokens", ()), options)):
        output.print_line(line)
    if check and not all_ready(rows):
        raise typer.Exit(1)
