"""Questions and orders of viewers to the coordinator: one connection, one at a time."""

import threading
from collections.abc import Callable
from typing import TypeVar

from flctl.errors import CoordinatorAway, FlctlError, UsageError
from flctl.fleet.console import RemoteRuns

T = TypeVar("T")
Open = Callable[[], RemoteRuns]
"""A new connection to the coordinator; it does not wait until there is one."""
TURN_S = 20.0
"""How long a viewer waits for the questions of others."""


class NotThere(UsageError):
    """An agent or a run that a path names."""


class Inquiries:
    """From any thread. `away` says, also during a wait, that no answer will come, or ""."""

    def __init__(self, open_: Open, away: Callable[[], str] = lambda: "") -> None:
        self._open, self._away = open_, away
        self._runs: RemoteRuns | None = None
        self._turn = threading.Lock()
        self._role: str | None = None

    def ask(self, question: Callable[[RemoteRuns], T]) -> T:
        """Raises FlctlError."""
        if away := self._away():
            raise CoordinatorAway(away)
        if not self._turn.acquire(timeout=TURN_S):
            raise CoordinatorAway("too many questions wait for the coordinator; try again")
        try:
            if self._runs is None:
                self._runs = self._open()
                self._runs.away = self._away
            return question(self._runs)
        except UsageError:
            raise
        except FlctlError:
            self._close()  # begin with a new connection: this one may be out of step
            raise
        finally:
            self._turn.release()

    def once(self, question: Callable[[RemoteRuns], T]) -> T:
        """Over a connection of its own, for what takes long. Raises FlctlError."""
        with self._open() as runs:
            runs.away = self._away
            return question(runs)

    def role(self) -> str:
        """What the page's key may do: "admin" or "read"; asked once. Raises FlctlError."""
        if self._role is None:
            self._role = self.ask(_role)
        return self._role

    def forget_role(self) -> None:
        """The coordinator was away: the key may have another role by now."""
        self._role = None

    def close(self) -> None:
        with self._turn:
            self._close()

    def _close(self) -> None:
        if self._runs is not None:
            self._runs.close()
            self._runs = None


def _role(runs: RemoteRuns) -> str:
    if runs.here:
        return "admin"
    return next((key["role"] for key in runs.keys()["keys"] if key["public_key"] == runs.key), "")
