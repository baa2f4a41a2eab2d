"""The sha256 of files, in hexadecimal."""

import hashlib
from pathlib import Path


def file_digest(path: Path) -> str:
    """Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def has_digest(path: Path, digest: str) -> bool:
    """Whether the file is there, and is what its digest says."""
    try:
        return file_digest(path) == digest
    except OSError:
        return False
