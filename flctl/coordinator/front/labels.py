"""Labels of agents as they change: sent by agents, set by operators, written to the state folder.

An operator's change is on the disk before it counts. What agents say is written at most every
few seconds, all together: a restarted fleet of hundreds says it at once.
"""

import logging
from collections.abc import Collection, Mapping
from pathlib import Path

from flctl.coordinator.store.labels import load_labels, save_labels
from flctl.core.roster import Roster
from flctl.errors import StateError
from flctl.labels import written
from flctl.transport.gate import Gate

logger = logging.getLogger(__name__)

WRITE_S = 5.0


class LabelKeeping:
    """`state` is None where agents live and die with this process."""

    def __init__(self, state: Path | None, roster: Roster, gate: Gate) -> None:
        self._state, self._roster, self._gate = state, roster, gate
        if state is not None:
            roster.labels = load_labels(state)
        self._unsaved = False
        self._save_at = float("-inf")

    def on_hello(self, agent: str, said: Mapping[str, str]) -> None:
        if self._roster.labels.on_said(agent, said):
            self._unsaved = True
            text = "agent=%s says that its labels are: %s"
            self._gate.info(logger, agent, text, agent, written(said) or "none")

    def on_time(self, now: float, enrolled: Collection[str]) -> None:
        labels = self._roster.labels
        if gone := {*labels.own, *labels.changed} - {*enrolled}:
            labels.forget(gone)
            self._unsaved = True
        if self._unsaved and now >= self._save_at:
            self._save_at, self._unsaved = now + WRITE_S, False
            try:
                self._save()
            except StateError as error:
                self._unsaved = True
                self._gate.error(logger, "(labels)", "%s", error)

    def close(self) -> None:
        self.on_time(float("inf"), {*self._roster.labels.own, *self._roster.labels.changed})

    def change(self, agent: str, changes: Mapping[str, str | None], reset: bool) -> dict[str, str]:
        """The labels that count afterwards. Raises UsageError, or StateError; then nothing has
        changed."""
        before = self._roster.labels
        self._roster.labels = before.change(agent, changes, reset)
        try:
            self._save()
        except StateError:
            self._roster.labels = before
            raise
        now = dict(self._roster.labels.of(agent))
        text = "agent=%s its labels are: %s"
        self._gate.info(logger, agent, text, agent, written(now) or "none")
        return now

    def _save(self) -> None:
        if self._state is not None:
            save_labels(self._state, self._roster.labels)
