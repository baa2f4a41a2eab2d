"""The agent's state folder: its lock, its name, and room for large blobs."""

import fcntl
import os
from contextlib import suppress
from pathlib import Path

import msgspec

from flctl.errors import StateError
from flctl.settings import AgentName

KEY_FILE = "agent.key"
_NAME_FILE = "name"
_LOCK_FILE = "lock"


class AgentState:
    """Holds the folder for this process alone until `close`.

    Raises StateError when it cannot be written to, or another agent works on it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(folder / _LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StateError(
                f"{folder}: the agent's state folder cannot be written to: {error.strerror}"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise StateError(
                f"{folder}: another agent works on this state folder; "
                "stop it, or give this one a folder of its own with --state"
            ) from error
        self.name = self._read_name()
        """Under which this agent was enrolled by a token, if it was."""

    @property
    def key_file(self) -> Path:
        return self.folder / KEY_FILE

    @property
    def blobs(self) -> Path:
        return self.folder / "blobs"

    def save_name(self, name: str) -> None:
        """Raises StateError."""
        part = self.folder / f"{_NAME_FILE}.part"
        try:
            with part.open("w", encoding="ascii") as file:
                file.write(name + "\n")
                file.flush()
                os.fsync(file.fileno())
            part.replace(self.folder / _NAME_FILE)
        except OSError as error:
            raise StateError(f"{part}: cannot keep the agent's name: {error.strerror}") from error
        self.name = name

    def close(self) -> None:
        with suppress(OSError):
            os.close(self._lock)

    def _read_name(self) -> str | None:
        try:
            text = (self.folder / _NAME_FILE).read_text(encoding="ascii").strip()
            return msgspec.convert(text, AgentName)
        except (OSError, UnicodeDecodeError, msgspec.ValidationError):
            return None  # it only saves asking again
