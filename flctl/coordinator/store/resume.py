"""How the folder of a run comes to be, and how a run is taken up again."""

import contextlib
import fcntl
import hashlib
import inspect
import logging
import os
import platform
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from msgspec import Struct

from flctl import __version__
from flctl.coordinator.store.folder import UNFINISHED, RunFolder
from flctl.coordinator.store.journal import Journal, complete
from flctl.core.events import AnyEvent, RoundsWithdrawn, RunKind, RunPaused, RunResumed, RunStarted
from flctl.core.history import History
from flctl.core.strategies import strategy_class
from flctl.errors import CheckpointError, StateError, UsageError
from flctl.files import explained, make_folder, new_file, sync_folder
from flctl.learning.package_files import code_digest
from flctl.learning.registry import task_digest
from flctl.settings import SCHEMA, RunSettings, changed, normalised
from flctl.wire.messages import Begun, Digest, Measures

logger = logging.getLogger(__name__)


class FirstModel(Struct, frozen=True):
    settings: RunSettings
    task_digest: Digest
    measures: Measures
    digest: Digest
    size: int
    fd: int
    """Holds the model, after its frozen part if there is one; its receiver closes it."""
    begun: Begun | None = None
    frozen: Digest | None = None
    frozen_size: int = 0
    private: Digest | None = None
    groups: dict[str, list[str]] = {}

    def write(self, folder: RunFolder) -> None:
        """As that of round 0. Raises StateError."""
        path = folder.model_path(0)
        with explained(path, "save the first model"):
            path.parent.mkdir(exist_ok=True)
            os.lseek(self.fd, 0, os.SEEK_SET)
            if self.frozen is not None:
                self._copy(folder.frozen_path, self.frozen_size)
            self._copy(path, self.size)
            if self.begun is not None:
                folder.keep_first()

    def _copy(self, path: Path, left: int) -> None:
        with new_file(path) as file:
            while left and (data := os.read(self.fd, min(left, 1 << 20))):
                left -= file.write(data)


def with_beginning(state: Path, given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`given` with the path of the run's model that `from` names, if it names a run. Raises
    UsageError, StateError."""
    plain = normalised(given, where)
    named = plain.get("from_")
    if isinstance(named, str) and not Path(named).is_absolute():
        run = RunFolder.find(state, named)
        history = run.history(lean=True)
        plain["from_"] = str(run.kept_model(history.round, history).absolute())
    return plain


def machine() -> str:
    """Processor type and torch build: what the last bits of a result depend on."""
    return f"{platform.machine()} torch {version('torch')}"


@cache
def strategy_digest(name: str) -> Digest | None:
    """Of its code as this process has imported it. Raises SettingsError."""
    kind = strategy_class(name)
    with contextlib.suppress(OSError, TypeError):  # not every module has a source file
        return code_digest(Path(inspect.getfile(kind)), kind.__module__)
    return None


def start_run(state: Path, first: FirstModel, kind: RunKind, at: float) -> RunFolder:
    """A new run's folder with its settings, first model and the journal's first line.

    `at` is the time in seconds since 1970. Raises StateError, and then nothing is left of it.
    """
    remove_unstarted(state)
    with _locked(make_folder(state / "runs"), fcntl.LOCK_SH):
        folder = RunFolder.create(state, first.settings)
        with folder.removed_unless_made():
            _fill(folder, first, kind, at)
            return folder.appear()


def remove_unstarted(state: Path) -> None:
    """Remove what kill -9 or a power cut left of runs that were being made; no client knows them.

    While another process is making one, this is left to the next start.
    """
    runs = state / "runs"
    if not runs.is_dir():
        return
    with _locked(runs, fcntl.LOCK_EX | fcntl.LOCK_NB) as alone:
        for path in runs.glob(f".*{UNFINISHED}") if alone else ():
            logger.info("run=%s was never begun; it is removed", RunFolder(path).name)
            shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path, how: int) -> Iterator[bool]:
    """Whether the folder's lock could be had; it ends with the process."""
    with explained(folder, "lock the folder"):
        fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(fd, how)
        except OSError:  # another process has it, or a file system without locks
            yield False
        else:
            yield True
    finally:
        os.close(fd)


def _fill(folder: RunFolder, first: FirstModel, kind: RunKind, at: float) -> None:
    first.write(folder)
    journal = Journal(folder.journal_path)
    started = RunStarted(
        at=at,
        schema=SCHEMA,
        run=folder.name,
        kind=kind,
        model=first.digest,
        size=first.size,
        task_digest=first.task_digest,
        version=__version__,
        machine=machine(),
        settings=_digest(folder),
        strategy_digest=strategy_digest(first.settings.strategy),
        measures=first.measures,
        begun=first.begun,
        frozen=first.frozen,
        private=first.private,
        groups=first.groups,
    )
    journal.append([started])
    journal.close()
    with explained(folder.path, "start the run"):
        for path in (folder.rounds_path, folder.path):
            sync_folder(path)


def expect_resumable(folder: RunFolder, history: History) -> None:
    """Raises UsageError."""
    if history.state in ("finished", "failed"):
        raise UsageError(f"run {folder.name} is {history.state}: nothing to resume")
    if history.made_by:
        path = shlex.quote(str(folder.path / "run.toml"))
        raise UsageError(
            f"run {folder.name} was made by {history.made_by}, and can only be read; start a new "
            f"run with its settings: flctl train {path}"
        )


def expect_unchanged(folder: RunFolder, history: History) -> None:
    """Check that run.toml is the one that the run began with. Raises StateError."""
    begun = history.started.settings if history.started is not None else None
    if begun is not None and begun != _digest(folder):
        path = folder.path / "run.toml"
        raise StateError(
            f"{path}: has changed since the run began; undo the change, or start a new run with "
            f"it: flctl train {shlex.quote(str(path))}"
        )


def _digest(folder: RunFolder) -> Digest:
    path = folder.path / "run.toml"
    with explained(path, "read the settings"):
        return hashlib.sha256(path.read_bytes()).hexdigest()


def take_up(
    folder: RunFolder,
    history: History,
    journal: Journal,
    at: float,
    changes: Mapping[str, Any] | None = None,
) -> Sequence[AnyEvent]:
    """Note in the journal that the run continues, unless it is just beginning; `changes` are
    settings that are others from here on.

    Returns what was noted, for those who follow the run. Raises UsageError when there is
    nothing left to do, or a change is not allowed, StateError when it cannot continue.
    """
    expect_resumable(folder, history)
    expect_unchanged(folder, history)
    asked = normalised(changes or {}, "the changes")
    settings = changed(folder.settings(history), asked, "the changes")
    noted: list[AnyEvent] = _withdraw_damaged(folder, history, journal, at)
    started = history.started
    if started is None or (
        history.state == "running" and not history.opened and not history.rounds and not asked
    ):
        return noted
    code = strategy_digest(settings.strategy)
    other = None if started.strategy_digest in (None, code) else code
    task = task_digest(settings.task) if started.kind == "virtual" else started.task_digest
    task_code = None if task == started.task_digest else task  # others do not train with such code
    same = other is None and task_code is None and started.machine == machine()
    resumed = RunResumed(
        at=at, reproducible=same, changed=asked, strategy_digest=other, task_digest=task_code
    )
    if resumed.other_code:
        logger.warning("run=%s the code of its %s has changed", folder.name, resumed.other_code)
    journal.append([resumed])
    history.apply(resumed)
    return [*noted, resumed]


def _withdraw_damaged(
    folder: RunFolder, history: History, journal: Journal, at: float
) -> list[AnyEvent]:
    """Go back to the newest round whose model is what the journal says; the rounds after it
    are done again. Raises CheckpointError when there is none: then the run is paused."""
    damage: CheckpointError | None = None
    for round_id in range(history.round, -1, -1):
        try:
            folder.verify_model(round_id, history.model_of(round_id))
            folder.verify_frozen(history)
            for event in history.rounds[round_id - 1 : round_id] if round_id else ():
                folder.verify_state(event)
            break
        except CheckpointError as error:
            damage = damage or error
    else:
        assert damage is not None
        journal.append([RunPaused(at=at, reason=str(damage))])
        raise damage
    if damage is None:
        return []
    withdrawn = RoundsWithdrawn(at=at, round=round_id, reason=str(damage))
    logger.error(
        "run=%s %s; it continues with the model of round %d and computes later rounds again",
        folder.name, damage, round_id,
    )  # fmt: skip
    journal.append([withdrawn])
    history.apply(withdrawn)
    complete(folder.journal_path, history)
    return [withdrawn]
