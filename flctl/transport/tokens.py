"""Join tokens: a secret that lets a few new agents in for a while. Only its hash is kept."""

import hashlib
import hmac
import secrets
from typing import Annotated

from msgspec import Meta, Struct

from flctl.errors import AccessError
from flctl.wire.messages import Deal

PREFIX = "flt_"
_BYTES = 20
KEEP_S = 7 * 86400.0
"""So long a spent or expired token is remembered, to say what became of it."""


class Token(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """What the key file knows about one token; times are seconds since 1970."""

    salt: Annotated[str, Meta(pattern=r"^([0-9a-f]{2})*\Z")]
    hash: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
    opened: float
    expires: float
    uses_left: int
    deal: Deal | None = None
    """What is dealt to those who join with it and ask for a shard."""

    def is_open(self, now: float) -> bool:
        return self.uses_left > 0 and now < self.expires

    def matches(self, text: str) -> bool:
        return hmac.compare_digest(self.hash, _hash(self.salt, text))


def new_token(ttl_s: float, uses: int, now: float, deal: Deal | None) -> tuple[str, Token]:
    """A token of 160 random bits as text, and what is to be kept of it.

    The hash is a plain salted sha256: there is nothing to guess in 160 random bits.
    """
    text = PREFIX + secrets.token_hex(_BYTES)
    salt = secrets.token_hex(16)
    return text, Token(
        salt=salt,
        hash=_hash(salt, text),
        opened=now,
        expires=now + ttl_s,
        uses_left=uses,
        deal=deal,
    )


def find_open(tokens: list[Token], text: str, now: float) -> int:
    """Index of the token that `text` is. Raises AccessError: wrong, expired or used up."""
    # All are compared, so that the time taken does not tell which one was near.
    found = [index for index, token in enumerate(tokens) if token.matches(text)]
    if not found:
        raise AccessError("the token is wrong; get one with flctl keys token")
    token = tokens[found[0]]
    if now >= token.expires:
        raise AccessError("the token has expired; open a new one with flctl keys token")
    if token.uses_left <= 0:
        raise AccessError("the token is used up; open a new one with flctl keys token")
    return found[0]


def _hash(salt: str, text: str) -> str:
    return hashlib.sha256(bytes.fromhex(salt) + text.encode()).hexdigest()
