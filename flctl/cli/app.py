"""All commands. Their modules load nothing heavy; each imports what it needs when it runs."""

from typing import Annotated

import typer

from flctl import __version__
from flctl.cli import keys, runs
from flctl.cli.agent import agent
from flctl.cli.connect import connect
from flctl.cli.coordinator import coordinator
from flctl.cli.demo import demo
from flctl.cli.discover import discover
from flctl.cli.evaluate import evaluate
from flctl.cli.options import HelpInPanels
from flctl.cli.status import status
from flctl.cli.train import train

# Plain help for the groups: rich would take longer to load than everything else here.
app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, add_completion=False)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"flctl {__version__}")
        raise typer.Exit


@app.callback()
def flctl(
    version: Annotated[  # noqa: ARG001
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Federated learning on a fleet of Raspberry Pis, from a bare SD card to a checkpoint.

    Try first: flctl demo
    """


for command in (train, status, discover, agent, coordinator, connect, evaluate, demo):
    app.command(cls=HelpInPanels)(command)
app.add_typer(keys.app, name="keys")
app.add_typer(runs.app, name="runs")
