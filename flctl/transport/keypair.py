"""CURVE key pairs: made where they are used, the secret half never leaves its file."""

import contextlib
import logging
import os
import struct
from dataclasses import dataclass, field
from pathlib import Path

import zmq
from zmq.utils import z85

from flctl.errors import StateError, UsageError
from flctl.files import explained, make_folder, replace, sync_folder, temporary_for

logger = logging.getLogger(__name__)

KEY_CHARACTERS = 40
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


def public_key(text: str, where: str) -> str:
    """`text` without white space around it, if it can be a public key. Raises UsageError."""
    key = text.strip()
    if not _is_z85_key(key):
        raise UsageError(f"{where}: not a public key (40 characters of Z85)")
    return key


def read_public(path: Path) -> str:
    """The public key in a file. Raises UsageError for the file of a secret one, StateError."""
    if path.suffix != PUBLIC and (path.with_suffix(PUBLIC).exists() or _is_private(path)):
        raise UsageError(
            f"{path}: this looks like the secret half, which must not leave its machine; "
            f"name {path.with_suffix(PUBLIC)}"
        )
    with explained(path, "read the public key"):
        return public_key(path.read_text(encoding="ascii", errors="replace"), str(path))


def _is_private(path: Path) -> bool:
    with explained(path, "read the public key"):
        return not path.stat().st_mode & 0o077


def load_or_make(path: Path) -> KeyPair:
    """The pair whose secret half is in the file `path`, made at the first call.

    The public half stands beside it in `path` with the suffix `.pub`. Raises StateError.
    """
    if path.suffix == PUBLIC:
        raise UsageError(f"{path}: this is the public half; name the file of the secret one")
    if not path.exists():
        make_folder(path.parent)
        _write_once(path, KeyPair.make().secret + "\n")
    with explained(path, "read the secret key"):
        _mend_mode(path)
        text = path.read_text(encoding="ascii", errors="replace").strip()
    try:
        pair = KeyPair.from_secret(text)
    except ValueError as error:
        raise StateError(
            f"{path}: not a secret key; remove the file to make a new pair, and enrol that"
        ) from error
    public = path.with_suffix(PUBLIC)
    if not public.exists() or public.read_text(errors="replace").strip() != pair.public:
        replace(public, f"{pair.public}\n".encode(), mode=0o644)
    return pair


def _is_z85_key(text: str) -> bool:
    if len(text) != KEY_CHARACTERS or not text.isascii():
        return False
    try:
        return len(z85.decode(text.encode())) == 32
    except (KeyError, ValueError, OverflowError, struct.error):  # the last: five of it too large
        return False


def _write_once(path: Path, text: str) -> None:
    """Durably and only for this user; whoever comes first wins, both then read the same."""
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
        logger.warning("%s: the secret key was readable by others (mode %o)", path, mode)
        path.chmod(0o600)
