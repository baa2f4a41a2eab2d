"""A run that is going on or over: its rounds and its models, here or with a coordinator."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

import msgspec

from flctl.coordinator.store.folder import RunFolder
from flctl.core.history import AnyEvent, History, RoundCommitted
from flctl.errors import RunError, StateError, UsageError
from flctl.fleet.console import Console

KNOWN = frozenset(str(kind.__struct_config__.tag) for kind in get_args(AnyEvent))
"""How the journal calls what it holds."""


class RecordedRun:
    """`about` is what `flctl runs show --json` prints, `events` those of its journal; the models
    come from `models`."""

    def __init__(
        self,
        about: Mapping[str, Any],
        events: Iterable[Mapping[str, Any]],
        models: RunFolder | Console,
    ) -> None:
        self._models = models
        self.name: str = about["run"]
        self.task: str = about["task"]
        self.kind: str = about["kind"]
        self.state: str = about["state"]
        self.settings: Mapping[str, Any] = about["settings"]
        self.history = history_of(events)

    @property
    def rounds(self) -> list[RoundCommitted]:
        """Committed ones, at least one. Raises RunError."""
        if not self.history.rounds:
            raise RunError(f"run {self.name} has no committed round yet")
        return self.history.rounds

    def round_of(self, which: str) -> int:
        """The round that "best", "last" or a number stands for. Raises UsageError."""
        if which == "last":
            return self.history.round
        if which == "best":
            if self.history.best is None:
                raise UsageError(
                    f"--which best: no round of run {self.name} was evaluated; take --which last"
                )
            return self.history.best.round
        if which.isascii() and which.isdigit():
            if int(which) <= self.history.round:
                return int(which)
            raise UsageError(f"--which {which}: run {self.name} has {self.history.round} rounds")
        raise UsageError(f"--which {which}: it is best, last or the number of a round")

    def model(self, round_id: int, folder: Path) -> Path:
        """The checkpoint of a round, which is put into `folder` if it has to be fetched.

        Raises FlctlError.
        """
        if isinstance(self._models, RunFolder):
            return self._models.kept_model(round_id, self.history)
        target, model = folder / "model.safetensors", self.history.model_of(round_id)
        return self._models.save_checkpoint(self.name, target, round_id, model)


def history_of(events: Iterable[Mapping[str, Any]]) -> History:
    """What they add up to. A newer coordinator may tell of more: that is passed over.

    Raises StateError.
    """
    history = History()
    for event in events:
        known = as_event(event)
        if known is not None:
            history.apply(known)
    return history


def as_event(event: Mapping[str, Any]) -> AnyEvent | None:
    """An event as the journal and a coordinator tell it; None for one that journals do not have.

    Raises StateError.
    """
    if event.get("event") not in KNOWN:
        return None
    try:
        known: AnyEvent = msgspec.convert(event, AnyEvent)
    except msgspec.ValidationError as error:
        raise StateError(f"an event that this version of flctl cannot read: {error}") from error
    return known
