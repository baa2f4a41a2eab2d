"""Manifest of `flctl data split`: the counts of each share, and the digest of each file.

Nothing here needs torch, so that a Pi checks its files at once.
"""

import hashlib
import os
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, NamedTuple

import msgspec
from msgspec import Meta, Struct

from flctl.errors import NOT_DECODED, DataError, UsageError, one_line
from flctl.files import sync_folder
from flctl.settings import AgentName, Partition
from flctl.wire.messages import Digest

SCHEMA: Literal[1] = 1
MANIFEST = "manifest.json"
PICTURE = "shares.png"
TEST = "test"
"""The folder of what no agent gets: for `flctl train --test-data`."""


class Counts(Struct, frozen=True, forbid_unknown_fields=True):
    """Counts of one part of some data."""

    examples: int
    classes: dict[str, int]
    """Examples of each class, by its name."""
    records: dict[str, dict[str, int]]
    """Classes of each record (patient, owner), without zeros; empty: the data do not say."""


class File(Struct, frozen=True, forbid_unknown_fields=True):
    size: Annotated[int, Meta(ge=0)]
    sha256: Digest


class Share(Struct, frozen=True, forbid_unknown_fields=True):
    """One folder; the parts by name, "train" and what is for testing."""

    parts: dict[str, Counts]
    files: dict[str, File]
    """By path within the folder."""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files.values())


class Manifest(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Manifest of a split; the same data and settings make the same bytes."""

    schema: Literal[1] = SCHEMA
    command: str
    """Makes the same shares again; complete, paths as they were typed."""
    flctl: str
    """The version that has written it."""
    task: str
    classes: tuple[str, ...]
    partition: Partition
    alpha: float
    seed: int
    agents: int
    shares: dict[AgentName, Share]
    """By name of the folder."""

    def encoded(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"


class Checked(NamedTuple):
    file: str
    """share/path"""
    problem: str | None


def read_manifest(folder: Path) -> Manifest:
    """Raises UsageError when there is none, DataError when it is damaged."""
    path = folder / MANIFEST
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(
            f"{folder}: no {MANIFEST} is there; name a folder that 'flctl data split' has made"
        ) from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except NOT_DECODED as error:
        raise DataError(f"{path}: not a manifest of shares: {one_line(error)}") from error
    for name, share in manifest.shares.items():
        for file in share.files:
            if PurePosixPath(file).is_absolute() or ".." in PurePosixPath(file).parts:
                raise DataError(f"{path}: share {name}: the file {file!r} is not within its folder")
    return manifest


def list_files(folder: Path) -> dict[str, File]:
    """Every file below `folder` with its digest, in order of the names, synced to disk.

    Raises OSError.
    """
    found = {}
    sync_folder(folder)
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            sync_folder(path)
            continue
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            size = file.tell()
            os.fsync(file.fileno())
        found[path.relative_to(folder).as_posix()] = File(size, digest)
    return found


def check(folder: Path, manifest: Manifest, names: Collection[str] = ()) -> Iterator[Checked]:
    """Compare each file of the shares `names` with the manifest, and find files not in it; without
    names, in all shares and in folders that look like one.

    Raises UsageError for a share that the manifest does not have.
    """
    for name in names:
        if name not in manifest.shares:
            there = ", ".join(list(manifest.shares)[:8])
            raise UsageError(f"{folder}: there is no share '{name}'; there are {there}")
    for name in names or manifest.shares:
        expected = manifest.shares[name].files
        for file, entry in expected.items():
            yield Checked(f"{name}/{file}", _problem(folder / name / file, entry))
        for path in sorted((folder / name).rglob("*")):
            file = path.relative_to(folder / name).as_posix()
            if file not in expected and not path.is_dir():
                yield Checked(f"{name}/{file}", "is not in the manifest")
    if not names:
        for path in sorted(folder.iterdir()):
            if path.is_dir() and path.name not in manifest.shares and path.name[0] != ".":
                yield Checked(path.name, "is not in the manifest")


def check_place(out: Path, force: bool) -> None:
    """Check that shares may be written to `out`: it does not exist, or is empty, or with `force`
    holds only what an earlier split left. Raises UsageError.
    """
    if not os.path.lexists(out):
        return
    if not out.is_dir():
        raise UsageError(f"--out {out}: is not a folder")
    if out.is_mount():
        raise UsageError(
            f"--out {out}: is a whole file system, and shares appear all at once by a rename; "
            f"name a new folder in it: {out / 'shares'}"
        )
    if Path.cwd().is_relative_to(out):
        raise UsageError(f"--out {out}: you are in this folder; name a new one")
    there = {path.name for path in out.iterdir()}
    if not there:
        return
    if not force:
        raise UsageError(f"--out {out}: is not empty; name a new folder, or replace it by --force")
    known = {MANIFEST, PICTURE}
    if MANIFEST in there:
        for name, share in read_manifest(out).shares.items():
            known |= {f"{name}/{file}" for file in share.files}
    files = (path for path in out.rglob("*") if path.is_symlink() or not path.is_dir())
    foreign = {path.relative_to(out).as_posix() for path in files} - known
    if foreign:
        raise UsageError(
            f"--out {out}: holds '{min(foreign)}', which no split has written, and --force "
            "replaces only an earlier split; name a new folder"
        )


def _problem(path: Path, expected: File) -> str | None:
    if not path.is_file():
        return "is missing"
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size != expected.size:
                return f"has {size} bytes, not {expected.size}"
            same = hashlib.file_digest(file, "sha256").hexdigest() == expected.sha256
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return None if same else "has another content (sha256)"
