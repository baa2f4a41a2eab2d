"""`flctl service`: an agent or a coordinator as a systemd service."""

import os
import pwd
from typing import Annotated, Any

import typer

from flctl.cli.options import Here, argument, command, flag, group, option
from flctl.errors import UsageError
from flctl.terminal.output import print_line, warn

app = group("Run an agent or a coordinator as a systemd service.")
KINDS = ("agent", "coordinator")
Kind = Annotated[str, argument("agent|coordinator", "What to run.")]
System = Annotated[
    bool | None,
    option(
        None,
        "Service of the system, or of your account.  [default: of the system for root]",
        "--system/--user",
        show_default=False,
    ),
]


@command(
    app,
    "flctl service install agent --coordinator SERVER:7700 --server-key KEY \\",
    "    --join-token-file token --name pi-01 --data beats.npz",
    "flctl service install coordinator --bind 0.0.0.0:7700",
    ignore_unknown_options=True,
    allow_extra_args=True,
)
def install(
    context: typer.Context,
    kind: Kind,
    system: System = None,
    account: str | None = option(
        "ACCOUNT",
        "Account that a service of the system runs as.  [default: the caller of sudo]",
        "--as",
        default=None,
    ),
    dry_run: bool = flag("Print the unit and change nothing.", "--dry-run"),
) -> None:
    """Start an agent or a coordinator now and at every boot.

    The options are those of 'flctl agent' or 'flctl coordinator'.
    To change an option, install it again.
    """
    from flctl.fleet import units

    as_system = _as_system(kind, system)
    if not dry_run:
        units.needs_systemd(as_system)
    account = units.account_of(account) if as_system else None
    given = _parsed(kind, context.args)
    state = given["state"]
    if state is None and account is not None and "FLCTL_STATE" not in os.environ:
        state = units.state_of(account)
    unit = units.unit_for(kind, list(context.args), given, account, Here(state).folder)
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
        warn(f"it starts at your login, not at boot, until: sudo loginctl enable-linger {me}")


@command(app, "flctl service remove agent")
def remove(kind: Kind, system: System = None) -> None:
    """Stop the service and remove it; state and keys stay."""
    from flctl.fleet import units

    as_system = _as_system(kind, system)
    units.needs_systemd(as_system)
    path = units.remove(kind, as_system)
    print_line(f"{path} is removed; the state folder stays")


def _as_system(kind: str, given: bool | None) -> bool:
    if kind not in KINDS:
        raise UsageError(f"'{kind}': it is agent or coordinator")
    return os.geteuid() == 0 if given is None else given


def _parsed(kind: str, options: list[str]) -> dict[str, Any]:
    """As the command would parse them; nothing is run."""
    from flctl.cli.app import app as flctl

    root: Any = typer.main.get_command(flctl)
    found = root.get_command(None, kind)
    return dict(found.make_context(f"flctl {kind}", list(options)).params)
