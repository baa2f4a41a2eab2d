"""`flctl service`: an agent or a coordinator that survives a reboot, by systemd."""

import os
import pwd
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from flctl.cli.options import HELP, Commands, Grouped, state_folder
from flctl.errors import UsageError
from flctl.terminal.output import warn

app = typer.Typer(
    help="Keep an agent or a coordinator running, also after a reboot (systemd).",
    no_args_is_help=True,
    cls=Commands,
    rich_markup_mode=None,
    context_settings=HELP,
)
KINDS = ("agent", "coordinator")
ONCE = ("FLCTL_JOIN_TOKEN",)
"""Secrets, which belong into no unit."""
GONE_AT_BOOT = ("/tmp", "/run", "/dev/shm")
Kind = Annotated[str, typer.Argument(metavar="agent|coordinator")]
System = Annotated[
    bool | None,
    typer.Option(
        "--system/--user",
        help="A service of the system, or of your account.  [default: of the system for root]",
        show_default=False,
    ),
]


@app.command(
    cls=Grouped, context_settings={"ignore_unknown_options": True, "allow_extra_args": True}
)
def install(
    context: typer.Context,
    kind: Kind,
    system: System = None,
    account: Annotated[
        str | None,
        typer.Option(
            "--as",
            metavar="ACCOUNT",
            help="Whom a service of the system runs as.  [default: who called sudo]",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the unit and change nothing.")
    ] = False,
) -> None:
    """Start it now and at every boot: give the options of 'flctl agent' or 'flctl coordinator'.

    For example: flctl service install agent --coordinator SERVER:7700 --server-key KEY
    --join-token-file token --name pi-01 --data beats.npz. To change an option, install again.
    """
    from flctl.fleet import units
    from flctl.terminal.output import print_line

    as_system = _as_system(kind, system)
    if not dry_run:
        units.needs_systemd(as_system)
    unit = _unit(kind, list(context.args), _account(account) if as_system else None)
    if dry_run:
        print_line(unit.text().rstrip())
        return
    if kind == "agent":
        from flctl.extras import needs_torch

        needs_torch("an agent")
    path = units.install(unit)
    user = "" if as_system else "--user "
    print_line(f"{path} is in force; look at it with: journalctl {user}-u {unit.name} -f")
    if not as_system and not units.lingers():
        me = pwd.getpwuid(os.getuid()).pw_name
        warn(f"it starts at your login and not at boot until: sudo loginctl enable-linger {me}")


@app.command(cls=Grouped)
def remove(kind: Kind, system: System = None) -> None:
    """Stop it and remove its unit; its state folder and its keys stay."""
    from flctl.fleet import units
    from flctl.terminal.output import print_line

    as_system = _as_system(kind, system)
    units.needs_systemd(as_system)
    path = units.remove(kind, as_system)
    print_line(f"{path} is removed; the state folder stays")


def _as_system(kind: str, given: bool | None) -> bool:
    if kind not in KINDS:
        raise UsageError(f"'{kind}': it is agent or coordinator")
    return os.geteuid() == 0 if given is None else given


def _account(given: str | None) -> str:
    name = given or os.environ.get("SUDO_USER")
    if not name:
        raise UsageError("name the account that the service runs as: --as ACCOUNT")
    try:
        return pwd.getpwnam(name).pw_name
    except KeyError:
        raise UsageError(f"--as {name}: there is no such account") from None


def _unit(kind: str, options: list[str], account: str | None) -> Any:
    """Raises UsageError for what the command itself would refuse, or what a boot would lose."""
    from flctl.fleet.units import Unit

    given = _parsed(kind, options)
    state, home = given["state"], Path(pwd.getpwnam(account).pw_dir if account else "~")
    if state is None and account is not None and "FLCTL_STATE" not in os.environ:
        state = home / ".local" / "state" / "flctl"
    folder = state_folder(state)
    if not any(word.partition("=")[0] == "--state" for word in options):
        options = [*options, "--state", str(folder)]
    if given.get("join_token_file") == "-":
        raise UsageError("--join-token-file -: a service has no standard input; name a file")
    writes = [folder]
    if given.get("invite") is not None:
        writes.append(given["invite"].expanduser().absolute())
    if kind == "agent" and account is not None:
        writes.append(home / ".cache" / "flctl")  # what a task downloads
    for word in (str(folder), *options):
        if any(word.startswith(f"{gone}/") or f"={gone}/" in word for gone in GONE_AT_BOOT):
            raise UsageError(f"{word}: {GONE_AT_BOOT[0]} and the like are empty after a reboot")
    kept = {
        key: value
        for key, value in os.environ.items()
        if key.startswith("FLCTL_") and key not in (*ONCE, "FLCTL_STATE")
    }
    words = [sys.executable, "-P", "-m", "flctl", kind, *options]
    for word in (*words, *kept.values(), *map(str, writes)):
        if not word.isprintable():
            raise UsageError(f"{word!r}: a unit cannot hold it")
    return Unit(kind, words, Path.cwd(), writes, account, kept)


def _parsed(kind: str, options: list[str]) -> dict[str, Any]:
    """As the command would; nothing of it is run."""
    from flctl.cli.app import app as flctl

    command: Any = typer.main.get_command(flctl)
    command = command.commands[kind]
    return dict(command.make_context(f"flctl {kind}", list(options)).params)
