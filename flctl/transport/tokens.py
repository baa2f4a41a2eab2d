"""Join tokens: a secret that lets a few new agents in for a while. Only its hash is kept."""

import hashlib
import hmac
import secrets
from typing import Annotated

from msgspec import Meta, Struct

from flctl.errors import AccessError, UsageError
from flctl.wire.messages import Deal

PREFIX = "flt_"
ID_CHARACTERS = 8
_BYTES = 20
KEEP_S = 7 * 86400.0
"""Seconds that a spent, closed or expired token is remembered, to explain a later refusal."""
KEPT = 256
"""Maximum number of those."""
LONGEST_TTL_S = 7 * 86_400.0
"""Long enough to write the cards of a fleet and to install it. While a token is open, strangers
may open connections and say Join."""
MOST_USES = 1_000
"""More agents than a coordinator was tried with; a larger fleet joins with a second token."""
MOST_OPEN = 64
BY_INVITATION = "--invite"
"""Placeholder for an operator's name; not a valid name."""


class Token(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """What the key file knows about one token; times are seconds since 1970."""

    salt: Annotated[str, Meta(pattern=r"^([0-9a-f]{2})*\Z")]
    hash: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
    opened: float
    expires: float
    uses_left: int
    deal: Deal | None = None
    """The division of the data for agents that join with it and ask for a shard."""
    evaluates: bool = False
    """Whether those who join with it may measure models, instead of training."""
    by: Annotated[str, Meta(max_length=63)] = ""
    """Name of the operator who made it, LOCAL for the coordinator's own user, BY_INVITATION, or
    "" where an older version made it."""
    closed: bool = False

    @property
    def id(self) -> str:
        """Public name of the token: it admits no one, and the token cannot be derived from it."""
        return self.hash[:ID_CHARACTERS]

    def is_open(self, now: float) -> bool:
        return not self.closed and self.uses_left > 0 and now < self.expires

    def matches(self, text: str) -> bool:
        return hmac.compare_digest(self.hash, _hash(self.salt, text))


def new_token(
    ttl_s: float, uses: int, now: float, deal: Deal | None, by: str = "", evaluates: bool = False
) -> tuple[str, Token]:
    """A token of 160 random bits as text, and what is to be kept of it. Raises UsageError.

    The hash is a plain salted sha256: there is nothing to guess in 160 random bits.
    """
    if not 0 < ttl_s <= LONGEST_TTL_S or not 1 <= uses <= MOST_USES:
        raise UsageError(
            f"a token lives for up to {LONGEST_TTL_S / 86_400:.0f} days and has 1 to {MOST_USES} "
            "uses; use several tokens for a larger fleet"
        )
    if evaluates and deal is not None:
        raise UsageError("an agent that evaluates has its own data: leave --shards out")
    text = PREFIX + secrets.token_hex(_BYTES)
    salt = secrets.token_hex(16)
    return text, Token(
        salt=salt,
        hash=_hash(salt, text),
        opened=now,
        expires=now + ttl_s,
        uses_left=uses,
        deal=deal,
        evaluates=evaluates,
        by=by,
    )


def find_open(tokens: list[Token], text: str, now: float) -> int:
    """Index of the token that `text` is. Raises AccessError: wrong, expired or used up."""
    # All are compared, so that the time taken does not tell which one was near.
    found = [index for index, token in enumerate(tokens) if token.matches(text)]
    if not found:
        raise AccessError("the token is wrong; create one with flctl keys token")
    token = tokens[found[0]]
    if token.closed:
        raise AccessError("the token was closed; create a new one with flctl keys token")
    if now >= token.expires:
        raise AccessError("the token has expired; create a new one with flctl keys token")
    if token.uses_left <= 0:
        raise AccessError("the token is used up; create a new one with flctl keys token")
    return found[0]


def remembered(tokens: list[Token], now: float) -> list[Token]:
    """The open ones, and the newest of those that were."""
    over = [token for token in tokens if not token.is_open(now)]
    kept = [token for token in over if now < token.expires + KEEP_S][-KEPT:]
    return [token for token in tokens if token.is_open(now) or token in kept]


def _hash(salt: str, text: str) -> str:
    return hashlib.sha256(bytes.fromhex(salt) + text.encode()).hexdigest()
