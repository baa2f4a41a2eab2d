"""`flctl status`: every agent as the coordinator knows it."""

from contextlib import suppress
from functools import partial

from flctl.cli.options import At, Json, command, flag, option, single
from flctl.cli.where import Where
from flctl.labels import wanted
from flctl.terminal import output
from flctl.terminal.finding import coordinator

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
        from flctl.fleet.connecting import connect_coordinator
        from flctl.terminal.status import follow

        with connect_coordinator(at.folder, at.context) as console, suppress(KeyboardInterrupt):
            asked = partial(console.status, wanted(where))
            follow(asked, every, wide, at.again, json)
        return
    with coordinator(at.folder, at.context) as console:
        found = console.status(wanted(where))
    if json:
        output.print_json(found["agents"])
        return
    from flctl.terminal.status import picture

    output.show(picture(found, wide, at.again))
