"""`flctl provision`, `deploy`, `upgrade` and so on: runs the Ansible playbooks of flctl."""

import re
import sys
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from flctl.cli.options import At, Context, State, argument, command, flag, option, single
from flctl.cli.options import path as a_path
from flctl.cli.where import Where
from flctl.errors import UsageError

app = single()
FLEET = "-i fleet.ini"


class Playbook(NamedTuple):
    """What every playbook takes."""

    inventory: Annotated[
        Path,
        option(
            "FILE",
            "Ansible inventory with the groups flctl_coordinator and flctl_agents.",
            "--inventory",
            "-i",
            env="FLCTL_INVENTORY",
            parser=a_path,
        ),
    ]
    limit: str | None = option("HOSTS", "Only these hosts: pi-02, pi-0* or a group.", default=None)
    where: Where = None
    state: State = None
    context: Context = None
    check: bool = flag("Show what would change, and change nothing.", "--check")
    ask_become_pass: bool = flag(
        "Ask for the sudo password of the hosts.", "--ask-become-pass", "-K"
    )
    set_: list[str] | None = option(
        "NAME=VALUE", "Variable of the playbooks; can be repeated.", "--set", default=None
    )
    more: list[str] | None = argument(
        "-- OPTIONS", "Further options of ansible-playbook.", default=None
    )

    def run(self, name: str, version: str | None = None, **extra: str | None) -> None:
        """Raises UsageError, FlctlError."""
        from flctl.fleet.playbooks import run_playbook, variables_of
        from flctl.terminal.labels import hosts_chosen

        own = {"flctl_version": version} if version is not None else {}
        variables = own | variables_of(self.set_ or [])
        variables |= {key: value for key, value in extra.items() if value is not None}
        limit = self.limit
        if self.where:
            folder = At(self.state).folder
            limit = hosts_chosen(self.inventory, limit, self.where, folder, self.context)
        options = [
            *(("--limit", limit) if limit else ()),
            *(("--check", "--diff") if self.check else ()),
            *(("--ask-become-pass",) if self.ask_become_pass else ()),
        ]
        run_playbook(name, self.inventory, variables, [*options, *(self.more or [])])


Anyway = Annotated[
    bool,
    option(
        None, "Proceed even if the run in progress needs other code and has to wait.", "--anyway"
    ),
]
Version = Annotated[
    str | None, option("X.Y.Z", "Version of flctl.  [default: the one installed here]")
]


@command(app, f"flctl provision {FLEET}", f"flctl provision {FLEET} --limit pi-04 -K")
def provision(playbook: Playbook) -> None:
    """Prepare fresh Pis: host name, clock, memory limits, Docker.

    Needs ssh and sudo on the hosts. Safe to repeat.
    """
    playbook.run("provision")


@command(app, f"flctl deploy {FLEET}", f"flctl deploy {FLEET} --replace pi-03")
def deploy(
    playbook: Playbook,
    version: Version = None,
    replace: str | None = option(
        "HOST",
        "Only this host, after its SD card was replaced: provision it, enrol a new key in "
        "place of the old one, and invite it again.",
        default=None,
    ),
) -> None:
    """Start the inventory's coordinator and agents in containers.

    The images come from the Docker engine of this machine (make images). Safe to repeat. To
    change the version of a running fleet, use flctl upgrade.
    """
    if replace is not None:
        one = re.fullmatch(r"(?!all$)\w[\w.-]*", replace)
        if playbook.limit is not None or not one:
            raise UsageError(f"--replace {replace}: the name of one host, without --limit")
        playbook = playbook._replace(limit=replace)
        playbook.run("provision")
    playbook.run("deploy", version, flctl_replace=replace)


@command(app, f"flctl update-os {FLEET}")
def update_os(playbook: Playbook) -> None:
    """Install Debian's updates on the hosts of a running fleet.

    Hosts that need it are rebooted. Each agent finishes its round first and is invited again once
    it is back. Hosts without updates are not touched; the coordinator's host comes last.
    """
    playbook.run("update-os")


@command(app, f"flctl upgrade {FLEET}", f"flctl upgrade {FLEET} --version 0.2.0 --check")
def upgrade(playbook: Playbook, version: Version = None, anyway: Anyway = False) -> None:
    """Upgrade a running fleet, one batch of hosts after another.

    The coordinator comes first, then one agent, then the rest. Each agent finishes its round
    first. A batch that is worse than before is rolled back, and the remaining hosts keep their
    version. Hosts that are switched off are listed at the end. If the new version changes the task
    of the run in progress, the command asks first.
    """
    playbook.run("upgrade", version, flctl_rollout_anyway="true" if anyway else None)


@command(app, f"flctl rollback {FLEET}")
def rollback(playbook: Playbook, anyway: Anyway = False) -> None:
    """Return a fleet to its previous version.

    The agents come first, then the coordinator.
    """
    playbook.run("rollback", flctl_rollout_anyway="true" if anyway else None)


@command(app, f"flctl push-data {FLEET} --source shares")
def push_data(
    playbook: Playbook,
    source: Path | None = option(
        "DIR",
        "Folder made by 'flctl data split': each agent gets the share with its name.  "
        "[default: none; data already on the Pis are registered]",
        parser=a_path,
        default=None,
    ),
) -> None:
    """Copy shares of a data set to the Pis that own them.

    No data are copied back. An interrupted transfer continues where it stopped. Checksums are
    compared at the end.
    """
    if source is not None and not (source / "manifest.json").is_file():
        raise UsageError(f"--source {source}: no manifest.json there; flctl data split makes it")
    playbook.run("push-data", flctl_push_data_source=str(source.absolute()) if source else None)


@command(app, f"flctl rotate-keys {FLEET}", f"flctl rotate-keys {FLEET} --limit pi-02")
def rotate_keys(playbook: Playbook) -> None:
    """Replace the agents' keys with new ones.

    The new keys are made on the Pis; the old ones are revoked. Also re-enrols a Pi whose SD card
    was rewritten.
    """
    playbook.run("rotate-keys")


@command(app, f"flctl remove {FLEET} --limit pi-05")
def remove(playbook: Playbook, yes: bool = flag("Do not ask for confirmation.", "--yes")) -> None:
    """Remove flctl from the Pis.

    Containers, images, keys, and data copied by push-data are removed. Other data stay, and so
    does Docker. The coordinator keeps its runs, unless --set flctl_coordinator_remove_runs=true.
    """
    if not (yes or playbook.check):
        if not sys.stdin.isatty():
            raise UsageError(
                "remove needs confirmation, but stdin is not a terminal; pass --yes to confirm"
            )
        hosts = playbook.limit or f"all hosts of {playbook.inventory}"
        typer.confirm(f"Remove flctl from {hosts}?", abort=True)
    playbook.run("remove", flctl_remove_confirmed="true")
