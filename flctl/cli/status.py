"""`flctl status`: every agent as the coordinator knows it."""

import time
from collections.abc import Sequence
from typing import Any

import typer

from flctl.cli.options import At, Json, command, flag, option, single
from flctl.cli.where import Where
from flctl.labels import wanted
from flctl.terminal import output
from flctl.terminal.finding import coordinator
from flctl.terminal.output import print_json, terminal

app = single()


@command(app, "flctl status", "flctl status --watch --every 5", "flctl status --json | jq .")
def status(
    at: At,
    watch: bool = flag("Update the picture until Ctrl-C.", "--watch", "-w"),
    every: float = option("SECONDS", "Interval of --watch.", min=0.2, default=2.0),
    wide: bool = flag(
        "Also the tasks of each agent with digests, its data sets and its limits.", "--wide"
    ),
    where: Where = None,
    json: Json = False,
) -> None:
    """Show the agents: state, device, link, last round, last error."""

    if watch:
        _watch(at, every, wide, json, wanted(where))
        return
    with coordinator(at.folder, at.context) as console:
        found = console.status(wanted(where))
    if json:
        output.print_json(found["agents"])
    else:
        output.show(_picture(found, wide, at))


def _watch(at: At, every: float, wide: bool, json: bool, where: Sequence[str]) -> None:
    from rich.live import Live

    from flctl.fleet.connecting import connect_coordinator

    with connect_coordinator(at.folder, at.context) as console:
        try:
            while json:
                print_json(console.status(where)["agents"], indent=False)
                time.sleep(every)
            screen = terminal()
            with Live(console=screen, screen=screen.is_terminal, auto_refresh=False) as live:
                while True:
                    live.update(_picture(console.status(where), wide, at), refresh=True)
                    time.sleep(every)
        except KeyboardInterrupt:
            raise typer.Exit(0) from None


def _picture(found: Any, wide: bool, at: At) -> Any:
    from flctl.terminal.status import picture

    return picture(found, wide, at.again)
