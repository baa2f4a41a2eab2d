"""`flctl provision`, `deploy`, `upgrade` and the like: the playbooks, from wherever flctl is."""

import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from flctl.cli.options import path as a_path
from flctl.errors import UsageError

Inventory = Annotated[
    Path,
    typer.Option(
        "--inventory",
        "-i",
        parser=a_path,
        metavar="FILE",
        envvar="FLCTL_INVENTORY",
        help="Ansible inventory with the groups flctl_coordinator and flctl_agents.",
    ),
]
Limit = Annotated[
    str | None,
    typer.Option(metavar="HOSTS", help="Only these hosts of it: pi-02, or pi-0*, or a group."),
]
Check = Annotated[
    bool, typer.Option("--check", help="Change nothing, only show what would be changed.")
]
Ask = Annotated[
    bool, typer.Option("--ask-become-pass", "-K", help="Ask for the password of sudo there.")
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="A variable of the playbooks; several times."),
]
More = Annotated[
    list[str] | None,
    typer.Argument(metavar="-- OPTIONS", help="What else ansible-playbook should be told."),
]
Anyway = Annotated[
    bool,
    typer.Option(
        "--anyway",
        help="Also when the run in progress is of other code, so that it waits for agents.",
    ),
]
Version = Annotated[
    str | None,
    typer.Option(metavar="X.Y.Z", help="Of flctl.  [default: the one that is installed here]"),
]


def provision(
    inventory: Inventory,
    limit: Limit = None,
    check: Check = False,
    ask_become_pass: Ask = False,
    set_: Set = None,
    more: More = None,
) -> None:
    """Make fresh Pis ready: name, clock, memory limits, Docker.

    Needs ssh and sudo there. Safe to run again.
    """
    _run("provision", inventory, limit, check, ask_become_pass, set_, more)


def deploy(
    inventory: Inventory,
    version: Version = None,
    limit: Limit = None,
    replace: Annotated[
        str | None,
        typer.Option(
            metavar="HOST",
            help="Only this host, whose card was dead and is new: it is provisioned, gets a new "
            "key in place of the old one, and is invited again.",
        ),
    ] = None,
    check: Check = False,
    ask_become_pass: Ask = False,
    set_: Set = None,
    more: More = None,
) -> None:
    """Start the coordinator and the agents in their containers, as the inventory says.

    Images come from this machine's Docker engine (make images). Safe to run again; to change
    the version of a fleet at work, flctl upgrade.
    """
    given = list(set_ or [])
    if replace is not None:
        if limit is not None or not re.fullmatch(r"\w[\w.-]*", replace) or replace == "all":
            raise UsageError(f"--replace {replace}: the name of one host, without --limit")
        limit = replace
        _run("provision", inventory, limit, check, ask_become_pass, given, more)
        given.append(f"flctl_replace={replace}")
    _run("deploy", inventory, limit, check, ask_become_pass, given, more, version)


def update_os(
    inventory: Inventory,
    limit: Limit = None,
    check: Check = False,
    ask_become_pass: Ask = False,
    set_: Set = None,
    more: More = None,
) -> None:
    """Install Debian's updates on the hosts of a fleet at work, and reboot where they need it.

    An agent finishes its round first, and is invited again when it is back as it was. A host
    without updates is left alone; the coordinator's host comes last.
    """
    _run("update-os", inventory, limit, check, ask_become_pass, set_, more)


def upgrade(
    inventory: Inventory,
    version: Version = None,
    limit: Limit = None,
    anyway: Anyway = False,
    check: Check = False,
    ask_become_pass: Ask = False,
    set_: Set = None,
    more: More = None,
) -> None:
    """Bring another version to a fleet at work: the coordinator, one agent, then the rest.

    An agent finishes its round first. A batch that comes back worse than before is rolled back,
    and the rest are left as they are. Hosts that are switched off are listed at the end. Where
    the new version has other code for the task of the run in progress, it asks before.
    """
    given = _with(set_, anyway)
    _run("upgrade", inventory, limit, check, ask_become_pass, given, more, version)


def rollback(
    inventory: Inventory,
    limit: Limit = None,
    anyway: Anyway = False,
    check: Check = False,
    ask_become_pass: Ask = False,
    set_: Set = None,
    more: More = None,
) -> None:
    """Go back to the image that ran before: the agents, then the coordinator."""
    given = _with(set_, anyway)
    _run("rollback", inventory, limit, check, ask_become_pass, given, more)


def push_data(
    inventory: Inventory,
    source: Annotated[
        Path | None,
        typer.Option(
            parser=a_path,
            metavar="DIR",
            help="What flctl data split has made: each agent gets the share of its name.  "
            "[default: none; data that a Pi has already are registered]",
        ),
    ] = None,
    limit: Limit = None,
    check: Check = False,
    ask_become_pass: Ask = False,
    set_: Set = None,
    more: More = None,
) -> None:
    """Bring shares to the Pis that shall own them. Nothing ever comes back.

    A transfer that was cut off goes on where it ended; checksums are compared at the end.
    """
    given = list(set_ or [])
    if source is not None:
        if not (source / "manifest.json").is_file():
            raise UsageError(
                f"--source {source}: no manifest.json there; flctl data split makes it"
            )
        given.append(f"flctl_push_data_source={source.absolute()}")
    _run("push-data", inventory, limit, check, ask_become_pass, given, more)


def rotate_keys(
    inventory: Inventory,
    limit: Limit = None,
    check: Check = False,
    ask_become_pass: Ask = False,
    set_: Set = None,
    more: More = None,
) -> None:
    """Give the agents new keys, made on the Pis; the old ones are shut out.

    Also what lets a Pi in again whose card was written anew.
    """
    _run("rotate-keys", inventory, limit, check, ask_become_pass, set_, more)


def remove(
    inventory: Inventory,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do not ask whether this is really wanted.")
    ] = False,
    limit: Limit = None,
    check: Check = False,
    ask_become_pass: Ask = False,
    set_: Set = None,
    more: More = None,
) -> None:
    """Take flctl off the Pis: containers, images, keys, and the data that push-data brought.

    What a Pi had before stays, and so does Docker. The coordinator keeps its runs, unless
    --set flctl_coordinator_remove_runs=true.
    """
    if not (yes or check):
        if not sys.stdin.isatty():
            raise UsageError("remove asks first, and here is nobody to answer: add --yes")
        typer.confirm(f"Remove flctl from {limit or f'all hosts of {inventory}'}?", abort=True)
    given = [*(set_ or []), "flctl_remove_confirmed=true"]
    _run("remove", inventory, limit, check, ask_become_pass, given, more)


def _with(set_: list[str] | None, anyway: bool) -> list[str]:
    return [*(set_ or []), *(["flctl_rollout_anyway=true"] if anyway else [])]


def _run(
    name: str,
    inventory: Path,
    limit: str | None,
    check: bool,
    ask_become_pass: bool,
    set_: list[str] | None,
    more: list[str] | None,
    version: str | None = None,
) -> None:
    from flctl.fleet.playbooks import run_playbook

    variables: dict[str, str] = {} if version is None else {"flctl_version": version}
    for text in set_ or []:
        key, equals, value = text.partition("=")
        if not equals or not key.isidentifier():
            raise UsageError(f"--set {text}: NAME=VALUE, with the name of a variable")
        variables[key] = value
    options = [*(("--limit", limit) if limit else ()), *(("--check", "--diff") if check else ())]
    options += ["--ask-become-pass"] if ask_become_pass else []
    run_playbook(name, inventory, variables, [*options, *(more or [])])
