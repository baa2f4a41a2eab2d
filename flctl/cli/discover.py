"""`flctl discover`: compares the expected agents with the connected ones."""

import shlex
from pathlib import Path

import typer

from flctl.cli.options import At, Json, command, flag, option, single
from flctl.terminal import output
from flctl.terminal.finding import coordinator

app = single()


@command(app, "flctl discover --inventory fleet.ini", "flctl discover --check")
def discover(
    at: At,
    inventory: Path | None = option(
        "FILE",
        "Ansible inventory, or the JSON of ansible-inventory --list: the hosts of its group "
        "flctl_agents, or all.  [default: the enrolled agents are expected]",
        env="FLCTL_INVENTORY",
        default=None,
    ),
    check: bool = flag("Exit with code 1 unless all are ready.", "--check"),
    json: Json = False,
) -> None:
    """Compare the expected agents with the connected ones.

    For each that differs, it says what to do.
    """
    from flctl.fleet.discovery import all_ready, compare, enrolled, too_many
    from flctl.fleet.inventory import read_inventory
    from flctl.terminal.keys import open_tokens
    from flctl.terminal.status import presence_table

    expected = None if inventory is None else read_inventory(inventory)
    with coordinator(at.folder, at.context) as console:
        status = console.status()
    # Ansible does not take the list that it has written for an inventory.
    named = (
        "FILE" if inventory is None or inventory.suffix == ".json" else shlex.quote(str(inventory))
    )
    rows = compare(enrolled(status) if expected is None else expected, status, at.again, named)
    if json:
        output.print_json(rows)
    else:
        none = "no agent is expected and none is connected; create a token for new agents with: "
        output.show(presence_table(rows) if rows else f"{none}flctl keys token{at.again}")
        for line in (too_many(status), open_tokens(status.get("tokens", ()), at.again)):
            if line:
                output.print_line(line)
    if check and not all_ready(rows):
        raise typer.Exit(1)
