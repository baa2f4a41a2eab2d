"""A run that is going on or over: its rounds and its models, here or with a coordinator."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flctl.coordinator.store.runs import LocalRuns
from flctl.core.events import AnyEvent, RoundCommitted
from flctl.core.history import History, why_no_best
from flctl.errors import RunError, UsageError
from flctl.fleet.console import RemoteRuns
from flctl.learning.whole import merge


class RecordedRun:
    """`about` is what `flctl runs show --json` prints, `events` those of its journal; the models
    come from `models`."""

    def __init__(
        self, about: Mapping[str, Any], events: Iterable[AnyEvent], models: LocalRuns | RemoteRuns
    ) -> None:
        self._models = models
        self.name: str = about["run"]
        self.task: str = about["task"]
        self.kind: str = about["kind"]
        self.state: str = about["state"]
        self.settings: Mapping[str, Any] = about["settings"]
        self.history = History.of(events)

    @property
    def rounds(self) -> list[RoundCommitted]:
        """Committed rounds, at least one. Raises RunError."""
        if not self.history.rounds:
            raise RunError(f"run {self.name} has no committed round yet")
        return self.history.rounds

    def round_of(self, which: str) -> int:
        """The round that "best", "last" or a number stands for. Raises UsageError."""
        if which == "last":
            return self.history.round
        if which == "best":
            if self.history.best is None:
                why = why_no_best(event.metrics for event in self.history.rounds)
                raise UsageError(
                    f"--which best: run {self.name} has no best round: {why}; use --which last"
                )
            return self.history.best.round
        if which.isascii() and which.isdigit():
            if int(which) <= (last := self.history.round):
                return int(which)
            raise UsageError(f"--which {which}: run {self.name} ends with round {last}")
        raise UsageError(f"--which {which}: write best, last or the number of a round")

    def model(self, round_id: int, folder: Path) -> Path:
        """The checkpoint of a round, which is put into `folder` if it has to be fetched, or is in
        two files.

        Raises FlctlError.
        """
        if isinstance(self._models, LocalRuns):
            found = self._models.model(self.name, round_id)
            if found.frozen is None:
                return found.path
            merge(found.path, found.frozen, folder / "model.safetensors")
            return folder / "model.safetensors"
        target, model = folder / "model.safetensors", self.history.model_of(round_id)
        return self._models.save_checkpoint(self.name, target, round_id, model)
