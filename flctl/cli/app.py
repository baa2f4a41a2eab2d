"""All commands. Their modules load nothing heavy; each imports what it needs when it runs."""

from typing import Annotated

import typer

from flctl import __version__
from flctl.cli import contexts, data, emulate, keys, runs, service, tasks
from flctl.cli.agent import agent
from flctl.cli.audit import audit
from flctl.cli.backup import backup, restore
from flctl.cli.connect import connect
from flctl.cli.coordinator import coordinator
from flctl.cli.cordon import cordon, uncordon
from flctl.cli.demo import demo
from flctl.cli.discover import discover
from flctl.cli.evaluate import evaluate
from flctl.cli.health import health
from flctl.cli.options import HELP, Commands, Grouped
from flctl.cli.playbooks import (
    deploy,
    provision,
    push_data,
    remove,
    rollback,
    rotate_keys,
    update_os,
    upgrade,
)
from flctl.cli.predict import predict
from flctl.cli.status import status
from flctl.cli.train import train

app = typer.Typer(
    no_args_is_help=True,
    cls=Commands,
    rich_markup_mode=None,
    add_completion=False,
    context_settings=HELP,
    epilog="Exit codes: 0 done, 1 failed, 2 wrong usage, 130 ended with Ctrl-C.",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"flctl {__version__}")
        raise typer.Exit


@app.callback()
def flctl(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Federated learning on a fleet of Raspberry Pis: the data stay, the model travels.

    Try first: flctl demo
    """


COMMANDS = (
    train, status, discover, cordon, uncordon, agent, coordinator, audit, health, connect, evaluate,
    predict, demo, backup, restore, provision, deploy, upgrade, rollback, push_data, rotate_keys,
    update_os, remove,
)  # fmt: skip
for command in COMMANDS:
    app.command(cls=Grouped)(command)
app.add_typer(contexts.app, name="context")
app.add_typer(data.app, name="data")
app.add_typer(emulate.app, name="emulate")
app.add_typer(keys.app, name="keys")
app.add_typer(runs.app, name="runs")
app.add_typer(service.app, name="service")
app.add_typer(tasks.app, name="tasks")
