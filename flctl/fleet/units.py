"""The systemd unit of an agent or a coordinator: its text, and its installation."""

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from flctl.errors import FlctlError, UsageError
from flctl.files import explained, make_folder, replace

ONCE = ("FLCTL_JOIN_TOKEN",)
"""Secrets, which do not belong in a unit."""
GONE_AT_BOOT = ("/tmp", "/run", "/dev/shm")
SYSTEM = Path("/etc/systemd/system")
# Of a process without privileges: a manager of one account cannot do the second part for it.
HARDENED = """\
UMask=0077
NoNewPrivileges=yes
LockPersonality=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
"""
HARDENED_SYSTEM = """\
CapabilityBoundingSet=
PrivateTmp=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHome=read-only
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectSystem=strict
"""


class Unit(Struct, frozen=True):
    kind: str
    """agent or coordinator."""
    command: Sequence[str]
    folder: Path
    """Relative paths of the command are taken from there."""
    writes: Sequence[Path]
    """All that it writes into."""
    account: str | None
    """Account that a system unit runs as; None: a user unit of the caller's account."""
    environment: Mapping[str, str]

    @property
    def name(self) -> str:
        return name_of(self.kind)

    def text(self) -> str:
        """Restarted whatever ends it, but for wrong usage (exit code 2), which does not heal. The
        worker may be killed for memory without its supervisor."""
        system = self.account is not None
        lines = [
            "# Made by: flctl service install",
            "[Unit]",
            f"Description=flctl {self.kind}",
            *(["Wants=network-online.target", "After=network-online.target"] if system else []),
            "StartLimitIntervalSec=0",
            "",
            "[Service]",
            "Type=exec",
            *([f"User={self.account}"] if system else []),
            f"WorkingDirectory=-{_literal(str(self.folder))}",
            *(f"Environment={_quoted(f'{k}={v}')}" for k, v in sorted(self.environment.items())),
            f"ExecStart={' '.join(_quoted(word).replace('$', '$$') for word in self.command)}",
            "Restart=always",
            "RestartSec=5s",
            "RestartPreventExitStatus=2",
            "KillMode=mixed",
            "TimeoutStopSec=30s",
            "OOMPolicy=continue",
            HARDENED.rstrip(),
        ]
        if system:
            lines.append(HARDENED_SYSTEM.rstrip())
            lines += [f"ReadWritePaths={_quoted(str(path))}" for path in self.writes]
        wanted = "multi-user.target" if system else "default.target"
        return "\n".join([*lines, "", "[Install]", f"WantedBy={wanted}", ""])


def name_of(kind: str) -> str:
    return f"flctl-{kind}.service"


def place(kind: str, system: bool) -> Path:
    own = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / "systemd" / "user"
    return (SYSTEM if system else own) / name_of(kind)


def needs_systemd(system: bool) -> None:
    """Raises UsageError where no systemd runs, or not for this account."""
    if shutil.which("systemctl") is None or not Path("/run/systemd/system").is_dir():
        raise UsageError("systemd does not run here; --dry-run prints the unit")
    if system and os.geteuid() != 0:
        raise UsageError("a service of the system needs root: sudo, or leave --system out")


def install(unit: Unit) -> Path:
    """Write the unit and start it, now and at every boot; one that runs is started again.

    Raises FlctlError.
    """
    system = unit.account is not None
    path = place(unit.kind, system)
    for folder in unit.writes:
        new = [each for each in (folder, *folder.parents) if not each.exists()]
        make_folder(folder)
        if unit.account is not None:
            for made in new:
                shutil.chown(made, unit.account)
    make_folder(path.parent, "the unit's folder")
    with explained(path, "write the unit", "service install"):
        replace(path, unit.text().encode(), 0o644)
    for order in (("daemon-reload",), ("enable", unit.name), ("restart", unit.name)):
        systemctl(system, *order)
    return path


def remove(kind: str, system: bool) -> Path:
    """Stop the service and take its unit away. Raises FlctlError."""
    path = place(kind, system)
    if not path.exists():
        where = "the system" if system else "this account (of the system: --system)"
        raise UsageError(f"{path}: no such service of {where}")
    systemctl(system, "disable", "--now", name_of(kind))
    with explained(path, "remove the unit", "service remove"):
        path.unlink()
    systemctl(system, "daemon-reload")
    return path


def lingers() -> bool:
    """Whether this account's services now start at boot instead of at login."""
    if shutil.which("loginctl") is None:
        return False
    done = subprocess.run(["loginctl", "enable-linger"], capture_output=True, check=False)
    return done.returncode == 0


def systemctl(system: bool, *order: str) -> None:
    command = ["systemctl", *([] if system else ["--user"]), *order]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        why = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise FlctlError(f"{' '.join(command)}: {why}")


def _literal(text: str) -> str:
    return text.replace("%", "%%")


def _quoted(text: str) -> str:
    escaped = _literal(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def account_of(given: str | None) -> str:
    name = given or os.environ.get("SUDO_USER")
    if not name:
        raise UsageError("name the account that the service runs as: --as ACCOUNT")
    try:
        return pwd.getpwnam(name).pw_name
    except KeyError:
        raise UsageError(f"--as {name}: no such account") from None


def state_of(account: str) -> Path:
    return Path(pwd.getpwnam(account).pw_dir) / ".local" / "state" / "flctl"


def unit_for(
    kind: str, options: list[str], given: Mapping[str, Any], account: str | None, folder: Path
) -> Unit:
    """Raises UsageError for what the command itself would refuse, or what a boot would lose."""
    home = Path(pwd.getpwnam(account).pw_dir if account else "~")
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
            raise UsageError(f"{word}: {GONE_AT_BOOT[0]} and similar folders are emptied at reboot")
    kept = {
        key: value
        for key, value in os.environ.items()
        if key.startswith("FLCTL_") and key not in (*ONCE, "FLCTL_STATE")
    }
    words = [sys.executable, "-P", "-m", "flctl", kind, *options]
    for word in (*words, *kept.values(), *map(str, writes)):
        if not word.isprintable():
            raise UsageError(f"{word!r}: not allowed in a systemd unit")
    return Unit(kind, words, Path.cwd(), writes, account, kept)
