"""The agent's state folder: its lock, the name it was given, room for large blobs."""

import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import msgspec

from flctl import files
from flctl.errors import NOT_DECODED
from flctl.settings import AgentName
from flctl.wire.messages import Digest, Life, LogLine, PublicKey, RunId

Stored = TypeVar("Stored")

_NAME_FILE = "name"
_TASKS_FILE = "tasks.json"
_SERVER_KEYS_FILE = "server-keys.json"
_LIFE_FILE = "coordinator.json"
_PACE_FILE = "pace.json"
_LOG_FILE = "log.json"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
RUNS_KEPT = 2
"""Runs whose unsent rest stays: this one, and one that may be resumed after it."""
PRIVATE_KEPT = 8
"""Runs whose private tensors stay."""


class _ServerKeys(msgspec.Struct, frozen=True):
    given: str
    """The key that the owner had configured when these were received."""
    keys: tuple[PublicKey, ...]


class _Met(msgspec.Struct, frozen=True):
    given: str
    """As above."""
    life: Life


class _Pace(msgspec.Struct, frozen=True):
    boot: str
    begun: dict[str, list[float]]


def _boot_id() -> str:
    """A number of this start of the machine; "" where there is none."""
    with suppress(OSError, UnicodeDecodeError):
        return _BOOT_ID.read_text(encoding="ascii").strip()
    return ""


def residuals_of(folder: Path, run: RunId) -> Path:
    """Where in the state `folder` the worker keeps what it has not sent of this run.

    That of older runs, of which nothing has been wanted for longest, is removed.
    """
    return _of_run(folder / "residuals", run, RUNS_KEPT)


def private_of(folder: Path, run: RunId) -> Path:
    """The same for the private tensors of a model, of which more runs are kept: a device's own
    part of a model is of use after its run."""
    return _of_run(folder / "own" / "private", run, PRIVATE_KEPT)


def _of_run(place: Path, run: RunId, kept: int) -> Path:
    with suppress(OSError):  # there may be none; and what cannot be removed does not matter yet
        others = sorted(
            (other for other in place.iterdir() if other.name != run),
            key=lambda other: other.stat().st_mtime,
        )
        for old in others[: max(0, len(others) + 1 - kept)]:
            shutil.rmtree(old, ignore_errors=True)
    return place / run


def own_models_of(folder: Path) -> Path:
    """Where in the state `folder` the models are that the device has for itself alone."""
    return folder / "own" / "personal"


class AgentState:
    """Holds the folder for this process alone until `close`.

    Raises StateError when it cannot be written to, or another agent works on it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = files.make_folder(folder)
        self._lock = files.Lock(
            folder / "lock",
            f"{folder}: another agent uses this state folder; stop it, or name another folder "
            "with --state",
        )
        self._sweep()
        self.name = self._read_name()
        """Under which this agent was enrolled by a token, if it was."""

    @property
    def key_file(self) -> Path:
        return self.folder / "agent.key"

    @property
    def blobs(self) -> Path:
        """Where blobs go that are too large for memory."""
        return self.folder / "blobs"

    @property
    def frozen(self) -> Path:
        """Where the tensors of models are that do not train."""
        return self.folder / "frozen"

    def save_name(self, name: str) -> None:
        """Raises StateError."""
        files.replace(self.folder / _NAME_FILE, f"{name}\n".encode())
        self.name = name

    def server_keys(self, given: str) -> tuple[str, ...]:
        """The keys that the coordinator has sent, () for none. If the owner configures another one
        by now, that one counts alone."""
        return stored_server_keys(self.folder, given)

    def save_server_keys(self, given: str, keys: Sequence[str]) -> None:
        """Store them durably, before they are used. Raises StateError."""
        path = self.folder / _SERVER_KEYS_FILE
        if tuple(keys) == (given,):
            with files.explained(path, "forget the server keys"):
                path.unlink(missing_ok=True)
        elif self.server_keys(given) != tuple(keys):
            self._store(_SERVER_KEYS_FILE, _ServerKeys(given=given, keys=tuple(keys)))

    def life(self, given: str) -> str:
        """Life of the coordinator met last, "" for none; see `server_keys` for `given`."""
        found = _stored(self.folder / _LIFE_FILE, _Met)
        return found.life if found is not None and found.given == given else ""

    def save_life(self, given: str, life: str) -> None:
        """Raises StateError."""
        if self.life(given) != life:  # SD cards wear out
            self._store(_LIFE_FILE, _Met(given=given, life=life))

    def save_tasks(self, tasks: Mapping[str, Digest]) -> None:
        """Note what the owner has enabled, for `flctl tasks list`. Raises StateError."""
        if saved_tasks(self.folder) != tasks:  # SD cards wear out
            self._store(_TASKS_FILE, tasks)

    def save_pace(self, begun: Mapping[str, list[float]]) -> None:
        """Note at the end when rounds were begun, by the monotonic clock of this boot: another
        start does not begin to count at 0. Raises StateError."""
        self._store(_PACE_FILE, _Pace(boot=_boot_id(), begun=dict(begun)))

    def saved_pace(self) -> dict[str, list[float]]:
        """What `save_pace` has noted since this machine was started; empty when nothing."""
        pace = _stored(self.folder / _PACE_FILE, _Pace)
        return pace.begun if pace is not None and pace.boot == _boot_id() != "" else {}

    def save_log(self, lines: Sequence[LogLine]) -> None:
        """At the end of the process. Raises StateError."""
        self._store(_LOG_FILE, lines)

    def forget_log(self) -> None:
        """Raises StateError."""
        path = self.folder / _LOG_FILE
        with files.explained(path, "remove the log"):
            path.unlink(missing_ok=True)

    def _store(self, name: str, value: object) -> None:
        files.replace(self.folder / name, msgspec.json.encode(value) + b"\n")

    def close(self) -> None:
        """When the worker has ended."""
        self._sweep()
        self._lock.release()

    def _sweep(self) -> None:
        """Remove partial files of a worker that was killed, or lost power."""
        with suppress(OSError):
            patterns = ("residuals/*/.*.tmp", "frozen/.*.tmp", "own/personal/.*.tmp")
            for pattern in (*patterns, "own/private/*/.*.tmp"):
                for left in self.folder.glob(pattern):
                    left.unlink()

    def _read_name(self) -> str | None:
        # What is damaged only costs asking again.
        with suppress(OSError, UnicodeDecodeError, msgspec.ValidationError):
            text = (self.folder / _NAME_FILE).read_text(encoding="ascii").strip()
            return msgspec.convert(text, AgentName)
        return None


def stored_server_keys(folder: Path, given: str) -> tuple[str, ...]:
    """See `AgentState.server_keys`. What is damaged counts as nothing."""
    found = _stored(folder / _SERVER_KEYS_FILE, _ServerKeys)
    return found.keys if found is not None and found.given == given else ()


def has_joined(folder: Path) -> bool:
    """Whether an agent of this folder was enrolled by a token before."""
    with suppress(OSError):
        return (folder / _NAME_FILE).exists()
    return False


def saved_tasks(folder: Path) -> dict[str, Digest] | None:
    """Those that the agent of this folder had enabled at its last start, with their digests;
    None when no agent has been started there."""
    return _stored(folder / _TASKS_FILE, dict[str, Digest])


def saved_log(folder: Path) -> tuple[LogLine, ...]:
    """The last lines of the process before; () if there was none, or it did not end in order."""
    return _stored(folder / _LOG_FILE, tuple[LogLine, ...]) or ()


def _stored(path: Path, kind: type[Stored]) -> Stored | None:
    """None if the file is missing or damaged."""
    with suppress(OSError, *NOT_DECODED):
        return msgspec.json.decode(files.read_small(path), type=kind)
    return None
