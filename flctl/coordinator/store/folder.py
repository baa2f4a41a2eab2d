"""The folder of a run: settings, journal, models, updates. A person can read it.

runs/<run>/run.toml            the settings, complete and frozen
           journal.jsonl       what has happened
           rounds/0007/model.safetensors  metrics.json  updates/pi-01.safetensors
           best.safetensors  last.safetensors
           frozen.safetensors  tensors that do not train: the rounds have the others then
           residuals/pi-01/    what local and virtual agents have not sent yet (top-k)
           personal/pi-01/     the own models of local and virtual agents
           .private/pi-01/     private tensors of local and virtual agents; in no backup
           lock                held by the process that drives the run
"""

import contextlib
import logging
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from flctl.coordinator.store.journal import replay
from flctl.core.events import RoundCommitted
from flctl.core.history import History
from flctl.digests import file_digest, has_digest
from flctl.errors import CheckpointError, SettingsError, StateError, UsageError
from flctl.files import Lock, explained, is_locked, make_folder, replace, sync_folder
from flctl.learning.whole import FROZEN, write_whole
from flctl.run_toml import from_toml, to_toml
from flctl.settings import RunSettings, changed
from flctl.values import names_run
from flctl.wire.messages import Digest

logger = logging.getLogger(__name__)

BEST, LAST, BEGUN = "best.safetensors", "last.safetensors", "begun.safetensors"
UNFINISHED = ".tmp"
"""The end of the folder's name, behind a dot at its beginning, until `appear`."""


class RunFolder:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name.removeprefix(".").removesuffix(UNFINISHED)
        self.journal_path = path / "journal.jsonl"
        self.rounds_path = path / "rounds"

    @classmethod
    def create(cls, state: Path, settings: RunSettings) -> "RunFolder":
        """A new folder with its run.toml, invisible until `appear`. Raises StateError."""
        runs = make_folder(state / "runs")
        task = settings.task.partition(":")[2] or settings.task
        plain = "".join(c if c.isascii() and c.isalnum() else "-" for c in task.lower())
        stem = plain.strip("-")[:24] or "run"
        begin = f"{stem}-{time.strftime('%m%d-%H%M%S')}"
        names = (f".{begin}-{secrets.token_hex(2)}{UNFINISHED}" for _ in range(100))
        folder = cls(next(path for name in names if not (path := runs / name).exists()))
        with folder.removed_unless_made():
            with explained(folder.path, "make the run's folder"):
                folder.path.mkdir(mode=0o700)
                folder.rounds_path.mkdir()
            replace(folder.path / "run.toml", to_toml(settings).encode())
        return folder

    def appear(self) -> "RunFolder":
        """Everything is written and synced: now it is a run, or never was. Raises StateError."""
        made = RunFolder(self.path.with_name(self.name))
        with explained(made.path, "start the run"):
            self.path.rename(made.path)
            sync_folder(made.path.parent)
        return made

    @contextlib.contextmanager
    def removed_unless_made(self) -> Iterator[None]:
        """Remove a half-made new run."""
        try:
            yield
        except BaseException:
            # Under its name, too: it may be that only the folder around it could not be synced.
            for path in (self.path, self.path.with_name(self.name)):
                shutil.rmtree(path, ignore_errors=True)
            raise

    @classmethod
    def find(cls, state: Path, run: str) -> "RunFolder":
        """The run named `run`, or the only one whose name begins so, or ends with -`run`.

        Raises UsageError when there is none, StateError when the disk fails.
        """
        runs = all_runs(state)
        matches = [f for f in runs if names_run(run, f.name)]
        exact = [f for f in matches if f.name == run]
        if len(exact or matches) == 1:
            return (exact or matches)[0]
        if matches:
            names = ", ".join(f.name for f in matches[:5])
            raise UsageError(f"'{run}' fits several runs: {names}")
        raise UsageError(f"no run '{run}' in {state}; 'flctl runs list' shows what there is")

    def settings(self, history: History | None = None) -> RunSettings:
        """The settings that the run began with; with its `history`, the current ones."""
        try:
            settings = from_toml(self.path / "run.toml")
        except SettingsError as error:
            raise StateError(f"run {self.name} is damaged: {error}") from error
        return changed(settings, history.changed if history else {}, str(self.journal_path))

    def history(self, lean: bool = False) -> History:
        return replay(self.journal_path, lean)

    def lock(self) -> Lock:
        """Raises StateError when another process drives this run."""
        return Lock(self.path / "lock", f"run {self.name} is driven by another process")

    @property
    def driven(self) -> bool:
        return is_locked(self.path / "lock")

    def round_path(self, round_id: int) -> Path:
        return self.rounds_path / f"{round_id:04d}"

    def model_path(self, round_id: int) -> Path:
        return self.round_path(round_id) / "model.safetensors"

    @property
    def frozen_path(self) -> Path:
        return self.path / FROZEN

    @property
    def frozen(self) -> Path | None:
        return self.frozen_path if self.frozen_path.exists() else None

    def spool_path(self, round_id: int) -> Path:
        return self.round_path(round_id) / "updates"

    def keep_first(self) -> None:
        """Keep the first model for as long as the run: it was brought, and cannot be made again."""
        self._link(0, BEGUN)

    def verify_first(self, digest: Digest) -> Path:
        """What `keep_first` has kept, compared with the journal. Raises CheckpointError."""
        return _verify(self._place(BEGUN), digest)

    def make_spool(self, round_id: int) -> Path:
        with explained(self.path, f"make the spool of round {round_id}"):
            spool = self.spool_path(round_id)
            spool.mkdir(parents=True, exist_ok=True)
        return spool

    def residuals_path(self, agent: str) -> Path:
        """Folder of what a virtual or local agent has not sent yet."""
        return self.path / "residuals" / agent

    def forget_residuals(self) -> None:
        """Remove the residuals of a finished run, which cannot be resumed."""
        shutil.rmtree(self.path / "residuals", ignore_errors=True)

    def verify_state(self, event: RoundCommitted) -> None:
        """Check that the strategy's state after a round is what the journal says.

        Raises CheckpointError.
        """
        for name, digest in event.server_state.items():
            _verify(self.round_path(event.round) / state_name(name), digest)

    def verify_frozen(self, history: History) -> None:
        """Check that the frozen part is what the journal says. Raises CheckpointError."""
        if history.started is not None and history.started.frozen is not None:
            _verify(self.frozen_path, history.started.frozen)

    def verify_model(self, round_id: int, digest: Digest) -> Path:
        """The path of a round's model, after its bytes were compared with the journal.

        Raises CheckpointError.
        """
        return _verify(self.model_path(round_id), digest)

    def kept_model(self, round_id: int, history: History) -> Path:
        """The model of a round, 0 for the first one, compared with the journal as above.

        Raises UsageError when it is no longer kept, CheckpointError.
        """
        kept = {r: self.model_path(r) for r in range(history.round + 1)}
        kept = {r: path for r, path in kept.items() if path.exists()}
        if history.best is not None:  # it stays when its round's own file goes
            kept.setdefault(history.best.round, self._place(BEST))
        if round_id not in kept:
            there = ", ".join(map(str, sorted(kept))) or "no round"
            raise UsageError(
                f"run {self.name}: the model of round {round_id} is not kept; "
                f"there is that of {there}"
            )
        return _verify(kept[round_id], history.model_of(round_id))

    def settle(
        self, event: RoundCommitted, history: History, keep: int | None, *, reused: bool = False
    ) -> None:
        """After a commit: metrics.json, best and last, and what is not needed any more; `keep` None
        leaves the earlier rounds to `forget`, `reused` the spool's files to the next round.

        Nothing here is needed to continue: it can be rebuilt from the journal.
        """
        with explained(self.path, f"settle round {event.round}"):
            metrics = msgspec.json.format(msgspec.json.encode(event), indent=2)
            (self.round_path(event.round) / "metrics.json").write_bytes(metrics + b"\n")
            best = history.best
            if best is not None and best.round == event.round:
                self._link(event.round, BEST)
            self._link(event.round, LAST)
            shutil.rmtree(self.spool_path(event.round - reused), ignore_errors=True)
        if keep is not None:
            self.forget(event.round, keep, synced=not best or best.round != event.round - keep)

    def forget(self, round_id: int, keep: int, *, synced: bool = False) -> None:
        """Remove what is not needed any more when that round is durable; `synced`: so is every name
        that is needed. Raises StateError."""
        with explained(self.path, f"remove what was before round {round_id}"):
            # That of the round before stays: a round whose model is damaged is done again.
            for path in self.round_path(round_id - 2).glob(state_name("*")):
                path.unlink()
            old = self.model_path(max(round_id - keep, 0))
            if 0 < keep <= round_id and old.exists():
                if not synced:  # it may be the best one: first its other name
                    sync_folder(self.path)
                old.unlink()

    def mend(self, history: History, keep: int) -> None:
        """Finish an interrupted `settle`, and remove what withdrawn rounds left."""
        with explained(self.path, "repair the run's folder"):
            for name in (BEST, LAST):
                self._temporary(name).unlink(missing_ok=True)
                if self.frozen is not None:  # the whole ones are those of an end
                    (self.path / name).unlink(missing_ok=True)
        for spool in self.rounds_path.glob("*/updates"):
            if spool.parent.name.isdigit() and int(spool.parent.name) <= history.round:
                shutil.rmtree(spool, ignore_errors=True)
        if history.rounds:
            self.settle(history.rounds[-1], history, keep)
        else:
            self._place(LAST).unlink(missing_ok=True)
        if history.best is None or history.best.round != history.round:
            with explained(self.path, f"restore {BEST}"):
                self._put_back(history.best)

    def _put_back(self, best: RoundCommitted | None) -> None:
        """Restore `BEST` from an earlier round, or remove it."""
        path = self._place(BEST)
        if best is None:
            path.unlink(missing_ok=True)
        elif has_digest(path, best.model):
            return
        elif self.model_path(best.round).exists():
            self._link(best.round, BEST)
        elif path.exists():
            logger.warning(
                "run=%s %s is not the model that the journal names, which is not kept any more: "
                "removed", self.name, BEST,
            )  # fmt: skip
            path.unlink()

    def sync(self, history: History) -> None:
        """The run ends: no round writes over the last one's files. Make durable which names
        `settle` has given, and removed, and the models whole. Raises StateError."""
        shutil.rmtree(self.spool_path(history.round), ignore_errors=True)
        if self.frozen is not None and history.rounds:
            for name in (LAST, BEST):
                if (model := self._place(name)).exists():
                    write_whole(model, self.frozen, self.path / name)
        with explained(self.path, "sync the run's folder"):
            sync_folder(self.path)
            if history.rounds:
                sync_folder(self.round_path(history.round))

    def checkpoint(self, history: History) -> Path:
        """The newest model as a file."""
        last = self._given(LAST)
        return last if history.rounds and last.exists() else self.model_path(history.round)

    def best(self, history: History) -> tuple[int, Path] | None:
        """The round with the best model, and that as a file."""
        path = self._given(BEST)
        return (history.best.round, path) if history.best and path.exists() else None

    def _place(self, name: str) -> Path:
        """The link to a round's model."""
        return (self.path if self.frozen is None else self.rounds_path) / name

    def _given(self, name: str) -> Path:
        """The file for people: whole, if that has been written."""
        return whole if (whole := self.path / name).exists() else self._place(name)

    def room_for(self, size: int, updates: int) -> None:
        """Check that the spool of a round fits on the disk. Raises StateError."""
        need = size * (updates + 2) + 16 * 2**20
        free = shutil.disk_usage(self.path).free
        if free < need:
            raise StateError(
                f"{self.path}: a round needs {need >> 20} MiB here for {updates} updates, "
                f"{free >> 20} MiB are free; make room"
            )

    def _link(self, round_id: int, name: str) -> None:
        temporary = self._temporary(name)
        temporary.unlink(missing_ok=True)
        try:
            temporary.hardlink_to(self.model_path(round_id))
        except OSError:  # a file system without hard links
            shutil.copyfile(self.model_path(round_id), temporary)
        temporary.replace(self._place(name))
        # Renaming one name of a file to another name of it does nothing at all.
        temporary.unlink(missing_ok=True)

    def _temporary(self, name: str) -> Path:
        return self._place(f".{name}.tmp")


def state_name(name: str) -> str:
    """The file next to a round's model that holds what a strategy keeps under `name`."""
    return f"server.{name}.safetensors"


def _verify(path: Path, digest: Digest) -> Path:
    try:
        actual = file_digest(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    if actual != digest:
        raise CheckpointError(f"{path}: damaged: its sha256 is not the one in the journal")
    return path


def all_runs(state: Path) -> Iterator[RunFolder]:
    """Folders of runs that have started, oldest first. Raises StateError."""
    runs = state / "runs"
    with explained(runs, "list the runs"):
        folders = [p for p in runs.glob("[!.]*") if (p / "journal.jsonl").exists()]
    yield from map(RunFolder, sorted(folders, key=_age))


def _age(path: Path) -> tuple[int, str]:
    """By run.toml, which is written once; a run without it can still be shown and removed."""
    try:
        return (path / "run.toml").stat().st_mtime_ns, path.name
    except OSError:
        return 0, path.name
