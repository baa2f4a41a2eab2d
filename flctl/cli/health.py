"""`flctl health`: whether the agent or coordinator of a state folder is well."""

import typer

from flctl.cli.options import Json, State, state_folder


def health(state: State = None, json: Json = False) -> None:
    """Say whether the agent or the coordinator that runs here is well; made for containers.

    Well means that its loop turns: the exit code is 0, else 1. Whether an agent is linked
    to its coordinator is in the line only: to start it anew would not help.
    """
    from flctl.terminal import output
    from flctl.transport.health import ask, in_words

    folder = state_folder(state)
    found = ask(folder)
    well, text = in_words(folder, found)
    if json:
        output.print_json({"healthy": well, **found})
    else:
        output.print_line(text)
    raise typer.Exit(0 if well else 1)
