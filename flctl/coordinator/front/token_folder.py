"""A door for agents that share a folder with the coordinator, as in Docker Compose.

The folder gets `server.pub`, the key that they dial, and while the door is open `token`. Who can
read the folder can enrol agents for so long; therefore it is opened by a person, for some minutes:
at the first start of a coordinator, which has no agents yet, and by `flctl keys invite`.
"""

import contextlib
import logging
import time
from collections.abc import Callable
from pathlib import Path

from flctl.errors import FlctlError
from flctl.files import explained, make_folder, read_small, replace
from flctl.transport.keys import Keyring
from flctl.transport.tokens import BY_INVITATION, MOST_USES, Token
from flctl.wire.messages import Deal

logger = logging.getLogger(__name__)

TTL_S = 900.0
"""For containers to start, one after the other, on a busy machine."""
USES = 100
"""Uses of a token without shards; otherwise one per shard."""


class TokenFolder:
    """`deal` is the division of the data for agents that ask for a shard. Raises FlctlError when
    the folder
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
        self._uses = USES if deal is None else min(deal.of, MOST_USES)
        self._token = self._left_behind()
        self.write_key()
        agents = [e for e in (*keyring.entries(), *keyring.revoked()) if e.role == "agent"]
        known = self._known()
        if not agents or (known is not None and known.deal != self._deal):
            self.open()
        elif known is None:
            self._remove()
            logger.info(
                "invite=%s is closed, because agents are enrolled already: flctl keys invite "
                "admits new ones",
                folder,
            )

    @property
    def path(self) -> Path:
        """The token's file."""
        return self._folder / "token"

    @property
    def token_id(self) -> str | None:
        """Id of the token in the folder; None while no token is open."""
        known = self._known()
        return known.id if known is not None else None

    def open(self, ttl_s: float = TTL_S) -> Token:
        """Let those in that read the folder within `ttl_s` seconds: the token for it.

        One that lasts as long already stays. Raises FlctlError.
        """
        known = self._known()
        fresh = known is not None and known.deal == self._deal and known.uses_left >= self._uses
        if known is None or not fresh or known.expires < self._clock() + ttl_s:
            # The old one stays good for those who have just read it.
            text = self._keyring.new_token(ttl_s, self._uses, self._deal, BY_INVITATION)
            replace(self.path, f"{text}\n".encode())
            self._token = text
            known = self._known()
            assert known is not None
        logger.info("invite=%s is open for %d s: token %s", self._folder, ttl_s, known.id)
        return known

    def write_key(self) -> None:
        """The one that agents are to dial. Raises FlctlError."""
        key = f"{self._keyring.server.public}\n"
        replace(self._folder / "server.pub", key.encode(), mode=0o644)

    def keep(self) -> None:
        """Remove the token's file when no further join with it is possible."""
        if self._token and self._known() is None:
            self._remove()
            logger.info("invite=%s is closed: flctl keys invite opens it again", self._folder)

    def close(self) -> None:
        with contextlib.suppress(FlctlError):
            if self._token:
                self._keyring.close_token(self._token)
        self._remove()

    def _known(self) -> Token | None:
        return self._keyring.open_token(self._token) if self._token else None

    def _remove(self) -> None:
        self._token = ""  # it no longer admits any key: what is left of it does no harm
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)

    def _left_behind(self) -> str:
        """The token of a coordinator that was killed."""
        if not self.path.exists():
            return ""
        with explained(self.path, "read the token", "--invite"):
            return read_small(self.path).decode("ascii", errors="replace").strip()
