"""Every error that flctl raises on purpose, as one tree.

    FlctlError                    exit code 1: it was tried and failed
    ├── UsageError                exit code 2: the command or its settings are wrong
    │   ├── SettingsError         a key or value of a run's settings
    │   └── NeedsExtra            a package that comes with an extra is not installed
    ├── DataError                 data are incomplete, empty, damaged or out of range
    │   ├── OtherData             they are not of the kind that the task reads
    │   ├── NothingToUse          a whole file has nothing for the task; among others it is left out
    │   └── DamagedData           an agent's files exist, but cannot be read
    ├── CheckpointError           not a checkpoint, damaged, or of another model
    ├── TaskError                 a task is unknown, broken or not enabled here
    ├── StateError                the state folder: in use, read-only, full, damaged
    ├── AccessError               a key or token is unknown, refused, expired or revoked
    ├── OwnerRefuses              the owner of a device does not allow what is asked of it
    ├── WireError                 bytes from the network or a file that are not what they claim
    │   ├── MalformedMessage      a frame that does not decode
    │   ├── ProtocolMismatch      a peer that speaks another protocol
    │   └── ParametersError       tensors that do not fit the model
    ├── CoordinatorAway           no answer at the address
    ├── EngineError               Docker is away, closed to this user, or will not do it
    └── RunError                  a run could not continue
        ├── NoAgents              no agent was ready within the wait
        ├── QuorumNotMet          too few updates at the deadline
        ├── StrategyError         the strategy cannot combine the updates of a round
        └── WorkerError           a worker process failed or died

A message says what happened, where (file, line, agent, round) and what to do, in one
line: the command line prints it unchanged.
"""

import contextlib
import enum
from collections.abc import Iterator

import msgspec

NOT_DECODED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""Errors of msgspec for bytes that are damaged, not UTF-8, or nested too deep."""


def printable(text: str, kept: str = "\n\t") -> str:
    """`text` without what steers a terminal: agents and files of strangers may be quoted in it."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in kept else _escaped(c) for c in text)


def _escaped(char: str) -> str:
    return repr(char)[1:-1]


def one_line(error: object, limit: int = 300) -> str:
    """The text of a foreign error, which may quote a stranger, as one short line."""
    text = printable(str(error)[: limit + 1], kept="")
    return text if len(text) <= limit else f"{text[:limit]} …"


@contextlib.contextmanager
def decoded(kind: "type[FlctlError]", what: str, then: str = "") -> Iterator[None]:
    """Turn what msgspec raises in the block into `kind`: `what`, the reason in one line, `then`."""
    try:
        yield
    except NOT_DECODED as error:
        raise kind(f"{what}: {one_line(error)}{then}") from error


def is_out_of_memory(error: BaseException) -> bool:
    # torch's own class is torch.OutOfMemoryError for a GPU, a plain RuntimeError for the CPU.
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
    )


class FlctlError(Exception):
    """Base of all; `exit_code` is what the command line ends with."""

    exit_code = 1


class UsageError(FlctlError):
    exit_code = 2


class SettingsError(UsageError): ...


class NeedsExtra(UsageError): ...


class DataError(FlctlError):
    """Data that cannot be used; the message names the file and the reason."""


class OtherData(DataError): ...


class NothingToUse(DataError): ...


class DamagedData(DataError): ...


class CheckpointError(FlctlError): ...


class TaskError(FlctlError): ...


class UnknownTask(TaskError, UsageError):
    """The name of what is not installed, or no task: wrong usage rather than a failure."""

    exit_code = 2


class StateError(FlctlError): ...


class AccessError(FlctlError): ...


class OwnerRefuses(FlctlError): ...


class WireError(FlctlError): ...


class MalformedMessage(WireError): ...


class ProtocolMismatch(WireError):
    """A message of a protocol that is not spoken here."""

    def __init__(self, theirs: int, oldest: int, newest: int) -> None:
        self.theirs = theirs
        self.oldest = oldest
        self.newest = newest
        super().__init__(f"protocol {theirs}, spoken here: {oldest} to {newest}")

    @property
    def age(self) -> str:
        return "too old" if self.theirs < self.oldest else "too new"


class ParametersError(WireError): ...


class CoordinatorAway(FlctlError): ...


class EngineError(FlctlError): ...


class RunError(FlctlError): ...


class NoAgents(RunError): ...


class QuorumNotMet(RunError):
    def __init__(self, round_id: int, got: int, need: int, missing: list[str]) -> None:
        names = ", ".join(missing[:8]) + (" …" if len(missing) > 8 else "")
        waited = f" (missing: {names})" if missing else ""
        super().__init__(f"round {round_id}: {got} of {need} required updates arrived{waited}")


class StrategyError(RunError): ...


class WorkerError(RunError): ...


class ErrorKind(enum.Enum):
    """Kinds of errors sent over the wire, as far as a caller may have to tell them apart."""

    SETTINGS, USAGE, DATA, CHECKPOINT = "settings", "usage", "data", "checkpoint"
    TASK, STATE, ACCESS, RUN, FAILED = "task", "state", "access", "run", "failed"

    @classmethod
    def of(cls, error: BaseException) -> "ErrorKind":
        return next((kind for kind in cls if isinstance(error, _OF_KIND[kind])), cls.FAILED)

    def error(self, message: str) -> FlctlError:
        return _OF_KIND[self](message)


_OF_KIND: dict[ErrorKind, type[FlctlError]] = {
    ErrorKind.SETTINGS: SettingsError,
    ErrorKind.USAGE: UsageError,
    ErrorKind.DATA: DataError,
    ErrorKind.CHECKPOINT: CheckpointError,
    ErrorKind.TASK: TaskError,
    ErrorKind.STATE: StateError,
    ErrorKind.ACCESS: AccessError,
    ErrorKind.RUN: RunError,
    ErrorKind.FAILED: FlctlError,
}
