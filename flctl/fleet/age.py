"""Files in the age format (age-encryption.org), as streams: with pyrage, the extra `backup`.

To encrypt takes public keys only; who has one of the secret keys reads the file. Such a file says
nothing about who wrote it: anyone may have a public key.
"""

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

from flctl.errors import FlctlError, NeedsExtra, StateError, UsageError, one_line
from flctl.files import explained, new_file, read_small

HOW = "pip install 'flctl[backup]'"


class Source(Protocol):
    error: BaseException | None
    """What `read` has raised."""

    def read(self, size: int, /) -> bytes: ...


def recipient(text: str, where: str) -> Any:
    """A public key, age1... or ssh-...; `where` is for the error. Raises UsageError."""
    pyrage = _pyrage()
    if text.startswith("AGE-SECRET-KEY-"):
        raise UsageError(f"{where}: this is a secret key; name its public half, age1...")
    try:
        kind = pyrage.ssh if text.startswith("ssh-") else pyrage.x25519
        return kind.Recipient.from_str(text)
    except pyrage.RecipientError as error:
        raise UsageError(
            f"{where}: not a public key of age (age1...) or ssh: {one_line(error)}"
        ) from error


def recipients(path: Path) -> list[Any]:
    """Those in a file, one a line. Raises UsageError, StateError."""
    found = [recipient(text, f"{path}, line {at}") for at, text in _lines(path, "--recipients")]
    if not found:
        raise UsageError(f"{path}: has no public key")
    return found


def identities(path: Path) -> list[Any]:
    """The secret keys in a file of age or ssh. Raises UsageError, StateError."""
    pyrage = _pyrage()
    try:
        with explained(path, "read the key", "--identity"):
            data = read_small(path)
        if data.startswith(b"-----BEGIN"):
            return [pyrage.ssh.Identity.from_buffer(data)]
        lines = _lines(path, "--identity")
        found = [pyrage.x25519.Identity.from_str(text) for _, text in lines]
    except (pyrage.IdentityError, ValueError) as error:  # never the text: it may be half a key
        raise UsageError(
            f"{path}: not a file of secret keys of age (AGE-SECRET-KEY-1...)"
        ) from error
    if not found:
        raise UsageError(f"{path}: has no secret key of age (AGE-SECRET-KEY-1...)")
    return found


class NewIdentity:
    """A new key pair, whose secret half `save` keeps in the new file `path`.

    Raises UsageError when the file is there.
    """

    def __init__(self, path: Path) -> None:
        if os.path.lexists(path):
            raise UsageError(f"{path}: already exists; use its public key with --recipient")
        self._path, self._pair = path, _pyrage().x25519.Identity.generate()
        self.public = self._pair.to_public()

    def save(self) -> None:
        """Raises StateError."""
        text = f"# public key: {self.public}\n{self._pair}\n"
        with (
            explained(self._path, "write the key", "--new-identity"),
            new_file(self._path, 0o600) as file,
        ):
            file.write(text.encode())


def encrypt(
    source: Source, path: Path, readers: Sequence[Any], identity: NewIdentity | None = None
) -> None:
    """All that `source` yields into a file for this user only, whole or not at all; a new
    `identity` is kept once it is whole."""
    pyrage = _pyrage()
    with explained(path, "write the backup", "FILE"), new_file(path, 0o600) as file:
        try:
            pyrage.encrypt_io(source, file, list(readers))
        except pyrage.EncryptError as error:
            if source.error is not None:
                raise source.error from None
            raise StateError(f"{path}: cannot be encrypted: {one_line(error)}") from error
        if identity is not None:
            file.flush()
            os.fsync(file.fileno())
            identity.save()


@contextmanager
def decrypted(path: Path, keys: Sequence[Any]) -> Iterator[IO[bytes]]:
    """What is in the file, to be read to its end within the block. Only after the block it is
    known to be whole: raises StateError when it is not, whatever else the block raises."""
    pyrage = _pyrage()
    ours, theirs = os.pipe()
    trouble: list[Exception] = []

    def work() -> None:
        try:
            with os.fdopen(theirs, "wb") as out:
                pyrage.decrypt_io(file, out, list(keys))
        except Exception as error:
            trouble.append(error)

    with explained(path, "read the backup", "FILE"), path.open("rb") as file:
        thread = threading.Thread(target=work, name="decrypt")
        thread.start()
        try:
            with os.fdopen(ours, "rb") as clear:
                yield clear
        except FlctlError:
            thread.join()
            # What comes first is that the file ends early, not what follows from that.
            if not trouble or isinstance(trouble[0], BrokenPipeError):
                raise
        finally:
            thread.join()
    if trouble:
        raise _unreadable(path, trouble[0]) from trouble[0]


def _unreadable(path: Path, error: Exception) -> FlctlError:
    if "No matching keys" in str(error):
        return StateError(
            f"{path}: damaged, or not encrypted for this key; name another copy, or another key "
            "with --identity"
        )
    return StateError(
        f"{path}: truncated or damaged, or not an age file ({one_line(error, 80)}); use another "
        "copy"
    )


def _lines(path: Path, option: str) -> Iterator[tuple[int, str]]:
    with explained(path, "read it", option):
        text = read_small(path).decode("utf-8", errors="replace")
    for number, line in enumerate(text.splitlines(), start=1):
        if (stripped := line.strip()) and not stripped.startswith("#"):
            yield number, stripped


def _pyrage() -> Any:
    try:
        import pyrage
    except ImportError as error:
        raise NeedsExtra(f"encrypted backups need pyrage: {HOW}") from error
    return pyrage
