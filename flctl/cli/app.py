"""All commands. A module is imported when its command is called, or listed."""

import importlib
from typing import Annotated, Any

import typer
import typer.main

from flctl.cli.helping import Commands
from flctl.cli.options import HELP

PLAYBOOKS = (
    "provision", "deploy", "push-data", "upgrade", "rollback", "rotate-keys", "update-os", "remove",
)  # fmt: skip
GROUPS = {
    "Try it on this machine": ("demo", "emulate"),
    "Train and use models": (
        "train", "runs", "evaluate", "predict", "personalise", "data", "tasks",
    ),
    "Set up a fleet": ("coordinator", "agent", "keys", "connect", "context", "service", "health"),
    "Set up and maintain Pis with Ansible": PLAYBOOKS,
    "Look after a fleet": (
        "status", "web", "discover", "alerts", "logs", "label", "cordon", "uncordon", "audit",
        "backup", "restore",
    ),
    "About flctl": ("version",),
}  # fmt: skip
"""All commands, by what a person wants to do."""
NAMES = tuple(name for names in GROUPS.values() for name in names)
MODULES = {"uncordon": "cordon", "restore": "backup", "context": "contexts"}
MODULES |= dict.fromkeys(PLAYBOOKS, "playbooks")
"""Module of each command, where the module has another name."""


class Root(Commands):
    groups = GROUPS

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        return list(NAMES)

    def get_command(self, ctx: Any, name: str) -> Any:  # noqa: ARG002
        if name not in self.commands and name in NAMES:
            module = importlib.import_module(f"flctl.cli.{MODULES.get(name, name)}")
            found: Any = typer.main.get_command(module.app)
            found = getattr(found, "commands", {}).get(name, found)
            found.name = name
            self.commands[name] = found
        return self.commands.get(name)


app = typer.Typer(
    no_args_is_help=True,
    cls=Root,
    rich_markup_mode=None,
    context_settings=HELP,
    epilog="Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted with Ctrl-C.",
)


def _version(wanted: bool) -> None:
    if wanted:
        from flctl import __version__

        typer.echo(f"flctl {__version__}")
        raise typer.Exit


@app.callback()
def flctl(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Federated learning on a fleet of Raspberry Pis: data stay, models travel.

    Try first: flctl demo
    """
