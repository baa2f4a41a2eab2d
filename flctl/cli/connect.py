"""`flctl connect`: remember a far coordinator, to steer it from here."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from flctl.cli.options import State, state_folder
from flctl.errors import UsageError


def connect(
    coordinator: Annotated[str, typer.Argument(metavar="HOST:PORT", help="Its address.")],
    server_key: Annotated[
        str,
        typer.Option(metavar="KEY", envvar="FLCTL_SERVER_KEY", help="Its public key."),
    ],
    key: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="Your own secret key, from 'flctl keys new FILE'; its public half must be "
            "enrolled there as read or admin.",
        ),
    ],
    name: Annotated[
        str, typer.Option(metavar="NAME", help="To call it by with --context.")
    ] = "default",
    state: State = None,
) -> None:
    """Steer a far coordinator from here.

    Every command then works on the coordinator at HOST:PORT, unless one runs on --state here or a
    RUN is named that --state has; --context chooses among several, --context local none of them.
    """
    from flctl.fleet.console import remote_console
    from flctl.fleet.context import DEFAULT, Context, save_context, use_context
    from flctl.formats import counted
    from flctl.terminal.output import print_line
    from flctl.transport.keys import load_or_make, public_key

    if not key.exists():
        raise UsageError(
            f"--key {key}: there is no such file; make one with: "
            f"flctl keys new {shlex.quote(str(key))}"
        )
    pair = load_or_make(key.absolute())
    context = Context(
        coordinator=coordinator,
        server_key=public_key(server_key, "--server-key"),
        public_key=pair.public,
        secret_key=pair.secret,
    )
    with remote_console(context) as console:
        status = console.status()
    path = save_context(state_folder(state), context, name)
    if name == DEFAULT:  # the one that was connected last is meant
        use_context(state_folder(state), name)
    agents = counted(len(status["agents"]), "agent")
    print_line(f"connected to {coordinator} ({agents}); saved in {path}")
