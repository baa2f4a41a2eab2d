"""Which runs are over: their agents need not keep what they have for them."""

import logging
from pathlib import Path

from flctl.coordinator.store.folder import RunFolder
from flctl.errors import StateError
from flctl.files import explained
from flctl.transport.gate import Gate

logger = logging.getLogger(__name__)

RUNS_KEPT = 16
"""Runs whose end is remembered."""


class RunsOver:
    """A journal is read again only when it has changed."""

    def __init__(self, state: Path, gate: Gate) -> None:
        self._runs, self._gate = state / "runs", gate
        self._known: dict[str, tuple[tuple[int, int], bool]] = {}

    def is_over(self, run: str, agent: str) -> bool:
        """Whether an update of `run` that `agent` offers is waited for no more, or never was.

        Raises StateError when the disk fails.
        """
        folder = RunFolder(self._runs / run)
        with explained(folder.journal_path, "read the journal"):
            if not folder.journal_path.exists():
                return True
            status = folder.journal_path.stat()
        stamp = (status.st_mtime_ns, status.st_size)
        if run not in self._known or self._known[run][0] != stamp:
            self._known[run] = stamp, self._read(folder, agent)
            if len(self._known) > RUNS_KEPT:
                del self._known[next(iter(self._known))]
        return self._known[run][1]

    def _read(self, folder: RunFolder, agent: str) -> bool:
        try:
            history = folder.history(lean=True)
            return history.state in ("finished", "failed") or bool(history.made_by)
        except StateError as error:
            if isinstance(error.__cause__, OSError):
                raise
            self._gate.error(logger, agent, "run=%s %s", folder.name, error)
            return False  # a person may repair its journal
