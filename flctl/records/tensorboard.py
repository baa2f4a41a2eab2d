"""A run as TensorBoard events: a folder for each run, one record for each round.

They are written with TensorBoard's own record writer rather than with torch's
SummaryWriter: a round is there as a whole or not at all, a full disk is an error of the
call and not of a thread, and torch need not be loaded to watch a fleet.
"""

import contextlib
import fcntl
import importlib.util
import os
import socket
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from flctl.core.events import RoundCommitted, RoundsWithdrawn
from flctl.core.metrics import computed
from flctl.core.stream import Published
from flctl.errors import StateError, UsageError
from flctl.files import explained
from flctl.folders import new_folder
from flctl.records.tables import by_agents, training_loss
from flctl.wire.messages import VALIDATION

PREFIX = "events.out.tfevents."


def needs_tensorboard() -> None:
    """Raises UsageError when it is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        raise UsageError("TensorBoard events need tensorboard: pip install 'flctl[tensorboard]'")


def points(event: RoundCommitted) -> dict[str, float]:
    """The scalars of a round by their tags; its number is their step."""
    people, score = event.participants, event.metrics
    found: dict[str, float | None] = {
        "round/seconds": event.seconds,
        "round/agents": len(people),
        "round/missing": len(event.missing),
        "round/bytes_up": sum(part.bytes_up for part in people.values()),
        "training/loss": training_loss(people),
    }
    for agent, part in people.items():
        found[f"agent_loss/{agent}"] = part.loss
        found[f"agent_seconds/{agent}"] = part.seconds
        found[f"agent_examples/{agent}"] = part.examples
    if score is not None:
        if score.validation is not None and score.chosen_on == VALIDATION:
            for key, value in score.validation.values.items():
                found[f"{VALIDATION}/{key}"] = value
        for key, value in score.values.items():
            found[f"{score.part.replace(' ', '_')}/{key}"] = value
            for name, other in score.beside.items():
                tag = f"agent_held_out_{key}/{name}" if by_agents(event) else f"{name}/{key}"
                found[tag] = other.values.get(key)
    known = {tag: float(value) for tag, value in found.items() if value is not None}
    return computed(known)


class Events:
    """The events of one run in `folder`, each round once, also after a restart.

    Raises StateError when another process writes there.
    """

    def __init__(self, folder: Path, option: str = "--tensorboard") -> None:
        self.folder, self._option = folder, option
        self._stack = contextlib.ExitStack()
        with explained(folder, "write TensorBoard events", option):
            folder.mkdir(parents=True, exist_ok=True)
            self._stack.enter_context(_alone(folder))
            self._written = _steps(folder)
        self._file: IO[bytes] | None = None

    def add(self, event: RoundCommitted) -> None:
        """Raises StateError when it cannot be written."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        if event.round in self._written:
            return
        values = [Summary.Value(tag=t, simple_value=v) for t, v in points(event).items()]
        self._write(Event(wall_time=event.at, step=event.round, summary=Summary(value=values)))
        self._written.add(event.round)

    def withdraw(self, event: RoundsWithdrawn) -> None:
        """Invalidate what was written of the rounds after `event.round`. Raises StateError.

        To TensorBoard it is the start of a program that continues after that step.
        """
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        kept = {round_id for round_id in self._written if round_id <= event.round}
        if kept == self._written:
            return
        start = SessionLog(status=SessionLog.START)
        self._write(Event(wall_time=event.at, step=event.round + 1, session_log=start))
        self._written = kept

    def close(self) -> None:
        # All was flushed; failures were reported, and closing the file retries here.
        with contextlib.suppress(OSError):
            self._stack.close()

    def _write(self, record: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        with explained(self.folder, "write TensorBoard events", self._option):
            if self._file is None:  # a run that only ends leaves no empty file
                name = f"{PREFIX}{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
                self._file = self._stack.enter_context((self.folder / name).open("xb"))
                first = Event(wall_time=record.wall_time, file_version="brain.Event:2")
                RecordWriter(self._file).write(first.SerializeToString())
            RecordWriter(self._file).write(record.SerializeToString())
            self._file.flush()


class Follower:
    """Writes the events that it receives into `folder`/RUN, as they happen.

    Raises UsageError or StateError now when nothing can be written there.
    """

    def __init__(self, folder: Path) -> None:
        _expect_folder(folder, "--tensorboard")
        with explained(folder, "write TensorBoard events", "--tensorboard"):
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        self._folder = folder
        self._events: Events | None = None

    def on_event(self, told: Published) -> None:
        """Any event of a run, from its beginning on. Raises StateError."""
        if self._events is None and told.run:
            self._events = Events(self._folder / told.run)
        match told.event:
            case RoundCommitted() as committed if self._events is not None:
                self._events.add(committed)
            case RoundsWithdrawn() as withdrawn if self._events is not None:
                self._events.withdraw(withdrawn)

    def close(self) -> None:
        if self._events is not None:
            self._events.close()


def export(rounds: Iterable[RoundCommitted], target: Path) -> None:
    """The folder `target` with all events; one that was there is replaced as a whole.

    Raises UsageError when it is not a folder of events, StateError.
    """
    _expect_folder(target.parent, "--out")
    with explained(target, "write TensorBoard events", "--out"):
        target.parent.mkdir(parents=True, exist_ok=True)
        with _replaceable(target), new_folder(target) as folder:
            events = Events(folder, "--out")
            with contextlib.closing(events):
                for event in rounds:
                    events.add(event)


def _expect_folder(path: Path, option: str) -> None:
    if path.exists() and not path.is_dir():
        raise UsageError(f"{option} {path}: is no folder")


@contextlib.contextmanager
def _replaceable(target: Path) -> Iterator[None]:
    """Check that only event files would be replaced, and that no process is writing them."""
    if not os.path.lexists(target):
        yield
        return
    if not target.is_dir() or target.is_symlink():
        raise UsageError(f"--out: {target} is not a folder, and would be overwritten")
    other = next((p.name for p in target.iterdir() if not p.name.startswith(PREFIX)), None)
    if other is not None:
        raise UsageError(
            f"--out: {target} contains '{other}', which would be overwritten; name another one"
        )
    with _alone(target):
        yield


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold `folder` as long as the block runs; it ends with the process, and leaves no file."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StateError(
                f"{folder}: another flctl is writing TensorBoard events there"
            ) from error
        yield
    finally:
        os.close(fd)


def _steps(folder: Path) -> set[int]:
    """Rounds that are there already. What was torn when its writer was killed is passed over."""
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    found: set[int] = set()
    for path in sorted(folder.glob(f"{PREFIX}*")):
        for event in LegacyEventFileLoader(str(path)).Load():
            if event.HasField("session_log"):
                found = {step for step in found if step < event.step}
            elif event.HasField("summary"):
                found.add(int(event.step))
    return found
