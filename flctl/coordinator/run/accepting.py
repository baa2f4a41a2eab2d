"""Tells agents that their updates are safe: at once, or after a sync that still goes on."""

from collections.abc import Callable

from flctl.coordinator.store.journal import Journal
from flctl.files import Syncing


class Accepting:
    """Of one round. `tell(agent)` says that the update is safe; the agent then forgets it."""

    def __init__(self, journal: Journal, tell: Callable[[str], None]) -> None:
        self._journal, self._tell = journal, tell
        self._syncing: Syncing | None = None
        self._held: list[str] = []

    @property
    def waits(self) -> bool:
        """Some updates are stored, and not safe yet."""
        return self._syncing is not None

    def after(self, syncing: Syncing) -> None:
        """What is accepted from now on is safe only after `wait`."""
        self._syncing = syncing

    def accept(self, agent: str) -> None:
        """The update of `agent` counts."""
        if self.waits:
            self._held.append(agent)
        else:
            self._tell(agent)

    def wait(self) -> None:
        """Until all of it is on disk; for the disk's thread. Raises StateError."""
        if self._syncing is not None:
            self._syncing.wait()
            self._journal.sync()

    def safe(self) -> None:
        """`wait` has ended well: tell those who were held."""
        self._syncing = None
        held, self._held = self._held, []
        for agent in held:
            self._tell(agent)
