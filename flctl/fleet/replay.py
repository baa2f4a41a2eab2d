"""Computes a run again from its journal, and compares every round's model, byte for byte.

The journal lists the participants of each round; everything else follows from the settings and
the data.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from msgspec import Struct, to_builtins
from msgspec.structs import replace

from flctl.coordinator.run.aggregation import aggregate
from flctl.coordinator.run.decisions import weigh_in
from flctl.coordinator.store.folder import RunFolder
from flctl.coordinator.store.resume import expect_unchanged, machine, strategy_digest
from flctl.core.events import RoundCommitted, UpdateStored
from flctl.core.history import History
from flctl.core.randomness import Seeding
from flctl.errors import DataError, RunError, UsageError
from flctl.files import expect_path
from flctl.fleet.clients import Clients, Trainer, first_model
from flctl.fleet.spool import Spool
from flctl.learning.examples import Examples
from flctl.learning.source import training_examples
from flctl.learning.task import Task, load_task, loaded_digest, task_of
from flctl.learning.whole import private_path
from flctl.settings import RunSettings
from flctl.wire.messages import Digest
from flctl.worker.jobs import DataSource


class Row(Struct, frozen=True):
    """One model of the run; round 0 is the one that it began with."""

    round: int
    journal: Digest
    replayed: Digest | None
    """None: it could not even be computed; `why` says what is different."""
    why: str = ""

    @property
    def same(self) -> bool:
        return self.journal == self.replayed


def replay(
    folder: RunFolder, sources: Mapping[str, Path], on_row: Callable[[Row], None] = lambda _: None
) -> list[Row]:
    """A row for the first model and every committed round, up to the first that differs.

    `sources` says where a copy of each agent's data is; local and virtual runs need none.
    `on_row` gets each row as soon as it is known. Raises UsageError when data are missing,
    StateError when the run's settings were changed.
    """
    settings, history = folder.settings(), folder.history()
    if not history.rounds:
        raise RunError(f"run {folder.name} has no committed round; there is nothing to replay")
    if history.made_by:
        raise UsageError(
            f"run {folder.name} was made by {history.made_by}, which drew random numbers "
            "differently: it cannot be replayed"
        )
    expect_unchanged(folder, history)
    assert history.started is not None
    # How agents of their own read is for them to say, and for the environment of who has copies.
    fleet = history.started.kind == "fleet"
    task = load_task(settings.task, settings.task_args) if fleet else task_of(settings)
    training = _training(task, settings, history, sources)
    rows: list[Row] = []

    def add(row: Row) -> bool:
        rows.append(row)
        on_row(row)
        return row.same

    with tempfile.TemporaryDirectory(prefix="flctl-replay-") as temporary:
        again = _Again(Path(temporary) / folder.name, settings, task, training)
        if add(again.begin(history, folder)):
            for event in history.rounds:
                if not add(again.round(event)):
                    break
    return rows


def other_machine(history: History) -> str | None:
    """Relevant differences of this machine from the run's; None if there are none."""
    assert history.started is not None
    there, here = history.started.machine, machine()
    return None if there == here else f"it was computed on {there}, this is {here}"


class _Again:
    """The run's second time, in a folder of its own."""

    def __init__(
        self, path: Path, settings: RunSettings, task: Task, training: Mapping[str, Examples]
    ) -> None:
        (path / "rounds").mkdir(parents=True)
        self._folder = RunFolder(path)
        self._settings, self._training = settings, training
        self._trainer = Trainer(self._folder, task, settings)
        self._positions: dict[str, int] = {}
        self._base: Digest = ""
        self._why = ""

    def begin(self, history: History, folder: RunFolder) -> Row:
        """The first model; one that was brought is the run's own file."""
        started, settings = history.started, self._settings
        assert started is not None
        changed = "the code of {} {} has changed since; install that of the run's beginning".format
        same = loaded_digest(settings.task) == started.task_digest
        task = "" if same else changed("task", settings.task)
        same = started.strategy_digest in (None, strategy_digest(settings.strategy))
        self._why = task if same else changed("strategy", settings.strategy)
        path = self._folder.model_path(0)
        path.parent.mkdir()
        if started.begun is not None:
            self._base = started.model
            shutil.copyfile(folder.verify_first(self._base), path)
            if folder.frozen is not None:
                shutil.copyfile(folder.frozen, self._folder.frozen_path)
            return _row(0, self._base, self._base, "")
        # As run.toml has it: complete, so that later defaults of a task do not matter.
        given = {k: v for k, v in to_builtins(self._settings).items() if v is not None}
        made = first_model(given, "run.toml", stored=True)
        try:
            made.write(self._folder)
        finally:
            os.close(made.fd)
        self._base = made.digest
        return _row(0, started.model, made.digest, task)

    def round(self, event: RoundCommitted) -> Row:
        spool = Spool(self._folder)
        for agent, part in sorted(event.participants.items()):
            own = self._training.get(agent)
            if own is None or part.data not in (None, own.digest):
                why = (
                    f"the data of {agent} in this round are missing or have changed: these are "
                    "not its data"
                )
                return Row(event.round, event.model, None, why)
            # What the floor of a device's owner left out there is left out here too.
            settings = self._settings
            position = self._positions.get(agent, 0)
            if part.private_lost:
                shutil.rmtree(private_path(self._folder.path, agent), ignore_errors=True)
            update, blob = self._trainer.train(
                own,
                self._base,
                Seeding(settings.seed, agent, event.round - 1, part.sequence, position),
                replace(settings, drop_last=True) if part.left_out else settings,
            )
            if update.batches != part.batches or not _counts(part.examples, update, self._settings):
                why = (
                    f"{agent} trained on {part.examples} examples in {part.batches} batches, "
                    f"here on {update.examples} in {update.batches}: these are not its data"
                )
                return Row(event.round, event.model, None, why)
            spool.put(update, blob)
            self._positions[agent] = self._positions.get(agent, 0) + update.batches
        weights = weigh_in(event.participants)
        made = aggregate(
            self._folder, event.round, weights, self._settings, held=spool.held, sync=False
        )
        shutil.rmtree(self._folder.spool_path(event.round), ignore_errors=True)
        self._folder.model_path(event.round - 1).unlink()
        self._base = made.model
        return _row(event.round, event.model, made.model, self._why)


def _counts(journal: int, update: UpdateStored, settings: RunSettings) -> bool:
    """Whether the journal's count can be of these data; version 0.1 counted the examples of the
    round's batches where those are limited now all that there are count."""
    if settings.federate_after_n_batches is None:
        return journal == update.examples
    return journal <= update.examples


def _row(round_id: int, journal: Digest, replayed: Digest, why: str) -> Row:
    return Row(round_id, journal, replayed, why if journal != replayed else "")


def _training(
    task: Task, settings: RunSettings, history: History, sources: Mapping[str, Path]
) -> Mapping[str, Examples]:
    """The data of every agent that took part in some round."""
    assert history.started is not None
    took_part = sorted({agent for event in history.rounds for agent in event.participants})
    unknown = sorted(set(sources) - set(took_part))
    if unknown:
        people = _few(took_part)
        raise UsageError(f"--data {unknown[0]}=…: took no part in the run; {people} did")
    for agent, path in sources.items():
        expect_path(path, f"--data {agent}={path}")
    here = history.started.kind != "fleet"
    if here and not sources:
        try:
            return Clients(task, settings).training
        except DataError:
            return {}  # the first round says that they are gone
    missing = [agent for agent in took_part if agent not in sources]
    if missing and here:
        raise UsageError(
            f"--data: also name the data of {_few(missing)}, or none at all: they are here"
        )
    if missing:
        raise UsageError(
            f"the data of {_few(missing)} are on their devices; name local copies: --data "
            f"{missing[0]}=PATH"
        )
    return {
        agent: training_examples(task, DataSource(path=str(sources[agent]))) for agent in took_part
    }


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (" …" if len(names) > 8 else "")
