"""Addresses as a person writes them, and where the coordinator of a state folder is found."""

import hashlib
import os
import socket
import stat
from pathlib import Path
from typing import NamedTuple

from flctl.errors import StateError, UsageError
from flctl.files import explained

LOCK = "coordinator.lock"
"""In a state folder: held by the coordinator that works on it."""
CONTROL_PATH_BYTES = 100
"""A Unix socket's path has room for 107."""
SHORT_FOLDERS = Path("/tmp")
"""Not the runtime folder of the session: a daemon and a shell may differ about that."""


class Address(NamedTuple):
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def endpoint(self) -> str:
        return f"tcp://{self}"

    @property
    def is_ipv6(self) -> bool:
        return ":" in self.host


def parse_address(text: str, lowest_port: int = 1) -> Address:
    """HOST:PORT or [IPv6]:PORT. Raises UsageError."""
    host, colon, port = text.strip().rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    if not colon or not bare or (":" in bare and bare == host):
        raise UsageError(f"'{text}' is not an address; write HOST:PORT, for instance pc.local:7700")
    if not (port.isascii() and port.isdigit()) or not lowest_port <= int(port) <= 65535:
        raise UsageError(f"'{text}': the port must be a number from {lowest_port} to 65535")
    return Address(bare, int(port))


def check_name(address: Address) -> None:
    """Raises UsageError for a host that does not exist; one that is only unreachable is fine.

    A Pi often starts before its network: a temporary DNS failure is not a configuration error.
    """
    try:
        socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        if error.errno != socket.EAI_AGAIN:
            raise UsageError(f"'{address}': unknown host '{address.host}'") from error
    except UnicodeError as error:
        raise UsageError(f"'{address}': not a valid host name") from error


def to_bind(address: Address) -> Address:
    """With the host as a number: ZeroMQ binds to no names. Raises UsageError."""
    if address.host == "*":
        return Address("0.0.0.0", address.port)
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        raise UsageError(f"'{address}': unknown host '{address.host}'") from error
    return Address(str(found[0][4][0]), address.port)


def reachable(endpoint: str) -> str:
    """The address as another machine would write it."""
    host, _, port = endpoint.rpartition(":")
    return f"{socket.gethostname()}:{port}" if host in ("0.0.0.0", "[::]", "*") else endpoint


def control_address(state: Path) -> str:
    """The `ipc://` address of the control socket of the coordinator in `state`.

    It lies in the state folder, or where that makes too long a path, under a hashed name in
    a folder of this user's. Raises StateError when that folder belongs to another user.
    """
    plain = state.absolute() / "control.sock"
    if len(os.fsencode(plain)) <= CONTROL_PATH_BYTES:
        return f"ipc://{plain}"
    owner = state.stat().st_uid if state.exists() else os.geteuid()
    folder = SHORT_FOLDERS / f"flctl-{owner}"
    with explained(folder, "make the control socket's folder"):
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != owner or status.st_mode & 0o077:
        raise StateError(f"{folder}: must be a folder of user {owner} alone (mode 0700); remove it")
    name = hashlib.sha256(os.fsencode(state.resolve())).hexdigest()[:24]
    return f"ipc://{folder / name}.sock"


def control_is_there(state: Path) -> bool:
    """Whether a coordinator of this state folder listens on its control socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(control_address(state).removeprefix("ipc://"))
        except OSError:
            return False
    return True
