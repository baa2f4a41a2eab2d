"""An open door for agents that share a folder with the coordinator, as in Docker Compose.

The folder gets `server.pub`, the key that they dial, and `token`, which is good for an hour
and is replaced by a fresh one in time. It is closed when the coordinator stops.
"""

import contextlib
import logging
import time
from collections.abc import Callable
from pathlib import Path

from flctl.errors import FlctlError
from flctl.files import explained, make_folder, replace
from flctl.transport.keys import Keyring
from flctl.wire.messages import Deal

logger = logging.getLogger(__name__)

TTL_S = 3600.0
USES = 10_000
RETRY_S = 30.0


class Invitation:
    """`deal` is what those who ask for a shard get a part of. Raises FlctlError when the folder
    cannot be used.
    """

    def __init__(
        self,
        folder: Path,
        keyring: Keyring,
        deal: Deal | None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._folder = make_folder(folder, "--invite")
        self._keyring, self._deal, self._clock = keyring, deal, clock
        self._token = self._left_behind()
        self._next_look = 0.0
        replace(folder / "server.pub", f"{keyring.server.public}\n".encode(), mode=0o644)
        self._renew()

    @property
    def path(self) -> Path:
        """Of the token."""
        return self._folder / "token"

    def keep(self) -> None:
        """Renew the token when it is time."""
        now = self._clock()
        if not self._next_look - TTL_S < now < self._next_look:  # clocks are also set back
            try:
                self._renew()
            except FlctlError as error:
                self._next_look = now + RETRY_S
                logger.error("%s; new agents cannot join until then", error)

    def close(self) -> None:
        with contextlib.suppress(FlctlError, OSError):
            self._keyring.close_token(self._token)
            self.path.unlink(missing_ok=True)

    def _renew(self) -> None:
        """Raises FlctlError."""
        now = self._clock()
        known = self._keyring.open_token(self._token)
        fresh = known is not None and known.deal == self._deal and known.uses_left > USES // 2
        if known is None or not fresh or known.expires - now < TTL_S / 2:
            # The old one stays good for those who have just read it.
            token = self._keyring.new_token(TTL_S, USES, self._deal)
            replace(self.path, f"{token}\n".encode())
            self._token = token  # what the file says: else it is tried again
        self._next_look = now + TTL_S / 60

    def _left_behind(self) -> str:
        """The token of a coordinator that was killed."""
        if not self.path.exists():
            return ""
        with explained(self.path, "read the token", "--invite"):
            return self.path.read_text(encoding="ascii", errors="replace").strip()
