"""Who may see the page: a token that only its owner reads; sessions outlive a restart."""

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from pathlib import Path

from flctl.errors import UsageError
from flctl.files import explained, make_folder, read_small, replace
from flctl.transport.allowance import Allowance

TOKEN, SESSION_KEY = "token", "session.key"
"""Files of the page's folder, for this user only."""
SESSION_S = 7 * 24 * 3600
TRIES, ALL_TRIES = 5, 60
"""Wrong tokens a minute from one address, and from all."""


class Login:
    """`folder` is made if it is not there. Raises StateError."""

    def __init__(
        self,
        folder: Path,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._path = make_folder(folder) / TOKEN
        self._wall_clock = wall_clock
        self._key = _kept(folder / SESSION_KEY, lambda: secrets.token_hex(32)).encode()
        _kept(self._path, lambda: secrets.token_urlsafe(24))
        self._tries, self._all_tries = Allowance(TRIES, clock), Allowance(ALL_TRIES, clock)
        self.lasts_s = SESSION_S
        self.cookie = "flctl-" + hashlib.sha256(self._key).hexdigest()[:8]
        """Its name: browsers do not tell the ports of a machine apart."""

    @property
    def token(self) -> str:
        """Read each time: an owner may put another one there, which ends all sessions."""
        return _read(self._path)

    def may_try(self, address: str) -> bool:
        """Whether this address may try a token now."""
        return self._tries.spend(address) is not None and self._all_tries.spend("") is not None

    def enter(self, token: str) -> str | None:
        """The value of the session's cookie, if this is the token."""
        expected = self.token
        if not expected or not hmac.compare_digest(token.strip().encode(), expected.encode()):
            return None
        ends = f"{self._wall_clock() + SESSION_S:.0f}"
        return f"{ends}.{self._seal(ends)}"

    def is_in(self, cookie: str) -> bool:
        ends, _, seal = cookie.partition(".")
        if not (ends.isascii() and ends.isdigit() and len(ends) < 20):
            return False
        is_ours = hmac.compare_digest(seal.encode(), self._seal(ends).encode())
        return is_ours and int(ends) > self._wall_clock()

    def _seal(self, ends: str) -> str:
        return hmac.new(self._key, f"{ends} {self.token}".encode(), hashlib.sha256).hexdigest()


def _kept(path: Path, make: Callable[[], str]) -> str:
    if not path.exists():
        replace(path, f"{make()}\n".encode())
    return _read(path)


def _read(path: Path) -> str:
    with explained(path, "read"):
        return read_small(path, 4096).decode(errors="replace").strip()


def secret_of(path: Path, option: str) -> str:
    """The one line of a file. Raises UsageError."""
    try:
        found = read_small(path, 4096).decode(errors="replace").strip()
    except OSError as error:
        raise UsageError(f"{option} {path}: {error.strerror}") from error
    if not found:
        raise UsageError(f"{option} {path}: the file is empty")
    return found
