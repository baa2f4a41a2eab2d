"""How a container's health check asks a running agent or coordinator whether its loop turns.

A Unix socket in the state folder; each connection receives one line of JSON from the loop
itself. Nothing heavy is loaded here: a check runs every half minute, also on a Pi 3.
"""

import contextlib
import json
import logging
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

NAMES = ("agent", "coordinator")
"""Both may work on one state folder."""
OWN_FILES = Path("/proc/self/fd")
ANSWER_S = 5.0
LONGEST = 16 * 1024


class HealthPort:
    """Where the process `name` that holds the lock of `folder` can be asked.

    Where no socket can be made, as on some network file systems, that is logged and no
    process can ask.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._path = folder / f"{name}.sock"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.setblocking(False)
        try:
            self._path.unlink(missing_ok=True)  # of a predecessor that was killed
            with _short(folder, name) as path:
                self._socket.bind(path)
            self._path.chmod(0o600)
            self._socket.listen(16)
        except OSError as error:
            logger.warning("%s: flctl health cannot ask there: %s", self._path, error)
            self._socket.close()

    @property
    def fds(self) -> list[int]:
        """File descriptor that is readable when a client asks."""
        fd = self._socket.fileno()
        return [] if fd < 0 else [fd]

    def answer(self, report: Callable[[], dict[str, Any]]) -> None:
        """Answer all who have asked, without waiting."""
        while self.fds:
            try:
                asker, _ = self._socket.accept()
            except OSError:
                return
            with asker, contextlib.suppress(OSError):
                asker.setblocking(False)  # its buffer holds the line, or the asker gets none
                asker.send(json.dumps(report()).encode() + b"\n")

    def close(self) -> None:
        if self.fds:
            with contextlib.suppress(OSError):  # a disk that may only be read
                self._path.unlink()
        self._socket.close()


def ask(folder: Path) -> dict[str, dict[str, Any] | None]:
    """Answer of each process that has a socket in `folder`; None for one that does not answer."""
    return {name: _ask(folder, name) for name in NAMES if (folder / f"{name}.sock").exists()}


def in_words(folder: Path, found: dict[str, dict[str, Any] | None]) -> tuple[bool, str]:
    """Whether everything that runs there is healthy, in one line."""
    if not found:
        return False, f"neither an agent nor a coordinator runs on {folder}"
    told = [
        f"{name} does not answer" if report is None else str(report.get("text", name))
        for name, report in found.items()
    ]
    return all(report is not None for report in found.values()), "; ".join(told)


def _ask(folder: Path, name: str) -> dict[str, Any] | None:
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(ANSWER_S)
            with _short(folder, name) as path:
                sock.connect(path)
            line = b""
            while not line.endswith(b"\n") and len(line) < LONGEST:
                got = sock.recv(4096)
                if not got:
                    return None
                line += got
        report = json.loads(line)
    except (OSError, ValueError):
        return None
    return report if isinstance(report, dict) else None


@contextlib.contextmanager
def _short(folder: Path, name: str) -> Iterator[str]:
    """The socket's path in few characters: there is room for 107, and --state may be deep. As it is
    where there is no /proc (macOS)."""
    if not OWN_FILES.is_dir():
        yield str(folder / f"{name}.sock")
        return
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"{OWN_FILES}/{fd}/{name}.sock"
    finally:
        os.close(fd)
