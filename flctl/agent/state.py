"""The agent's state folder: its lock, the name it was given, room for large blobs."""

from contextlib import suppress
from pathlib import Path

import msgspec

from flctl import files
from flctl.settings import AgentName

_NAME_FILE = "name"


class AgentState:
    """Holds the folder for this process alone until `close`.

    Raises StateError when it cannot be written to, or another agent works on it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = files.make_folder(folder)
        self._lock = files.Lock(
            folder / "lock",
            f"{folder}: another agent works on this state folder; "
            "stop it, or give this one a folder of its own with --state",
        )
        self.name = self._read_name()
        """Under which this agent was enrolled by a token, if it was."""

    @property
    def key_file(self) -> Path:
        return self.folder / "agent.key"

    @property
    def blobs(self) -> Path:
        """Where blobs go that are too large for memory."""
        return self.folder / "blobs"

    def save_name(self, name: str) -> None:
        """Raises StateError."""
        files.replace(self.folder / _NAME_FILE, f"{name}\n".encode())
        self.name = name

    def close(self) -> None:
        self._lock.release()

    def _read_name(self) -> str | None:
        # What is damaged only costs asking again.
        with suppress(OSError, UnicodeDecodeError, msgspec.ValidationError):
            text = (self.folder / _NAME_FILE).read_text(encoding="ascii").strip()
            return msgspec.convert(text, AgentName)
        return None
