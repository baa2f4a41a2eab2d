"""`flctl connect`: save a remote coordinator."""

import shlex
from pathlib import Path
from typing import Annotated

from flctl.cli.options import Here, argument, command, option, single
from flctl.errors import UsageError
from flctl.formats import counted
from flctl.terminal.output import print_line

app = single()


@command(app, "flctl connect SERVER:7700 --server-key KEY --key me.key")
def connect(
    coordinator: Annotated[str, argument("HOST:PORT", "Address of the coordinator.")],
    server_key: Annotated[
        str, option("KEY", "Public key of the coordinator.", env="FLCTL_SERVER_KEY")
    ],
    key: Annotated[
        Path,
        option(
            "FILE",
            "Your secret key, made by 'flctl keys new FILE'; its public half must be enrolled on "
            "the coordinator as read or admin.",
        ),
    ],
    here: Here,
    name: str = option("NAME", "Name for --context.", default="default"),
) -> None:
    """Save a remote coordinator, which all commands use from then on.

    A coordinator that runs on --state, or a RUN that is stored there, takes precedence.
    --context chooses among several coordinators; --context local chooses this machine.
    """
    from flctl.fleet.connecting import remote
    from flctl.fleet.context import DEFAULT, Context, save_context, use_context
    from flctl.transport.keypair import load_or_make, public_key

    if not key.exists():
        raise UsageError(
            f"--key {key}: no such file; make one with: flctl keys new {shlex.quote(str(key))}"
        )
    pair = load_or_make(key.absolute())
    context = Context(
        coordinator=coordinator,
        server_key=public_key(server_key, "--server-key"),
        public_key=pair.public,
        secret_key=pair.secret,
    )
    with remote(context) as console:
        agents = counted(len(console.status()["agents"]), "agent")
    path = save_context(here.folder, context, name)
    if name == DEFAULT:  # the last connection becomes the current one
        use_context(here.folder, name)
    print_line(f"connected to {coordinator} ({agents}); saved in {path}")
