"""`flctl health`: whether the agent or coordinator of a state folder is healthy."""

import typer

from flctl.cli.options import Here, Json, command, single
from flctl.terminal import output

app = single()


@command(app, "flctl health --state ./pi-01")
def health(here: Here, json: Json = False) -> None:
    """Check the health of the agent or coordinator that runs here.

    For containers and monitoring. Exit code 0 if its main loop responds, else 1. A lost link
    between agent and coordinator is only reported: a restart would not restore it.
    """
    from flctl.transport.health import ask, in_words

    found = ask(here.folder)
    well, text = in_words(here.folder, found)
    output.answer({"healthy": well, **found}, json, text)
    raise typer.Exit(0 if well else 1)
