"""CURVE key pairs: made where they are used, the secret half never leaves its file."""

import base64
import binascii
import contextlib
import logging
import os
import struct
from dataclasses import dataclass, field
from pathlib import Path

import zmq
from zmq.utils import z85

from flctl.errors import StateError, UsageError
from flctl.files import explained, make_folder, read_small, replace, sync_folder, temporary_for

logger = logging.getLogger(__name__)

KEY_CHARACTERS = 40
PREFIX = "flk_"
"""Prefix of a public key when it is shown."""
PUBLIC = ".pub"
"""Suffix of the file with the public half."""


@dataclass(frozen=True)
class KeyPair:
    """Both halves in Z85, 40 characters each."""

    public: str
    secret: str = field(repr=False)

    @classmethod
    def make(cls) -> "KeyPair":
        public, secret = zmq.curve_keypair()
        return cls(public.decode(), secret.decode())

    @classmethod
    def from_secret(cls, secret: str) -> "KeyPair":
        """Raises ValueError when `secret` is not a key."""
        if not _is_z85_key(secret):
            raise ValueError("not a CURVE key")
        return cls(zmq.curve_public(secret.encode()).decode(), secret)


def shown(key: str) -> str:
    """A public key (Z85) as people see it: letters, digits and _, which need no quotes in a shell
    and never look like an option. What is not a key stays unchanged."""
    if not _is_z85_key(key):
        return key
    return PREFIX + base64.b32encode(z85.decode(key.encode())).decode().rstrip("=").lower()


def is_public_key(text: str) -> bool:
    """Whether it is a key in either form."""
    return _from_either(text.strip()) is not None


def public_key(text: str, where: str) -> str:
    """The public key in Z85 that `text` is, in that form or as `shown`. Raises UsageError."""
    key = _from_either(text.strip())
    if key is None:
        raise UsageError(
            f"{where}: not a public key ({PREFIX} and 52 letters and digits, or 40 characters "
            "of Z85)"
        )
    return key


def _from_either(text: str) -> str | None:
    if not text.startswith(PREFIX):
        return text if _is_z85_key(text) else None
    with contextlib.suppress(binascii.Error, ValueError):
        key = str(z85.encode(base64.b32decode(text[len(PREFIX) :].upper() + "====")).decode())
        return key if shown(key) == text.lower() else None  # of the last character a bit counts
    return None


def read_public(path: Path) -> str:
    """The public key in a file. Raises UsageError for the file of a secret one, StateError."""
    if path.suffix != PUBLIC and _is_private(path):
        raise _secret(path)
    refuse_secret(path)
    with explained(path, "read the public key"):
        return public_key(read_small(path).decode("ascii", errors="replace"), str(path))


def refuse_secret(path: Path) -> None:
    """Raises UsageError for a file whose public half is next to it."""
    if path.suffix != PUBLIC and _public_half(path).exists():
        raise _secret(path)


def _secret(path: Path) -> UsageError:
    return UsageError(
        f"{path}: this looks like the secret half, which must not leave its machine; "
        f"name {_public_half(path)}"
    )


def _is_private(path: Path) -> bool:
    with explained(path, "read the public key"):
        return not path.stat().st_mode & 0o077


def load_or_make(path: Path) -> KeyPair:
    """The pair whose secret half is in the file `path`, made at the first call.

    The public half is next to it: `me.pub` of `me.key`, `me.pub` of `me`. A pair of which
    only that half is left is not made again: somebody knows the old one. Raises StateError.
    """
    if path.suffix == PUBLIC:
        raise UsageError(f"{path}: this is the public half; name the file of the secret one")
    public = _public_half(path)
    once = public.exists()  # looked at first: another process may be making the pair
    if not path.exists():
        if once:
            raise StateError(
                f"{public} exists, but its secret half {path} is missing: restore it from a "
                f"backup; to make a new pair, move {public.name} away"
            )
        make_folder(path.parent)
        _write_once(path, KeyPair.make().secret + "\n")
    with explained(path, "read the secret key"):
        text = read_small(path).decode("ascii", errors="replace").strip()
    try:
        pair = KeyPair.from_secret(text)
    except ValueError as error:
        raise StateError(
            f"{path}: not a secret key: restore it from a backup; to make a new pair, move it "
            f"and {public.name} away, and give the new public key to all who have the old one"
        ) from error
    with explained(path, "read the secret key"):
        _mend_mode(path)
    known = ""
    with explained(public, "write the public key"), contextlib.suppress(FileNotFoundError):
        known = read_small(public).decode("ascii", errors="replace").strip("\0 \r\n")
    if known and not is_public_key(known):
        raise StateError(f"{public}: not a public key: flctl needs this file; move it away")
    if not known or public_key(known, str(public)) != pair.public:
        replace(public, f"{shown(pair.public)}\n".encode(), mode=0o644)
    return pair


def _public_half(path: Path) -> Path:
    """me.key → me.pub, me → me.pub, a.b → a.b.pub."""
    stem = path.with_suffix("") if path.suffix == ".key" else path
    return stem.with_name(stem.name + PUBLIC)


def _is_z85_key(text: str) -> bool:
    if len(text) != KEY_CHARACTERS or not text.isascii():
        return False
    try:
        return len(z85.decode(text.encode())) == 32
    except (KeyError, ValueError, OverflowError, struct.error):  # the last: five of it too large
        return False


def _write_once(path: Path, text: str) -> None:
    """Write durably and only for this user; the first of two writers wins, for both."""
    with explained(path, "write the secret key"):
        with temporary_for(path) as (fd, temporary):
            os.write(fd, text.encode("ascii"))
            os.fsync(fd)
            with contextlib.suppress(FileExistsError):
                path.hardlink_to(temporary)
        sync_folder(path.parent)


def _mend_mode(path: Path) -> None:
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        logger.warning("%s: the secret key was readable by other users (mode %o)", path, mode)
        path.chmod(0o600)
