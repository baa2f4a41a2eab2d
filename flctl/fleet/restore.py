"""A state folder out of a backup: every name and size is checked, nothing is there until all is.

Anyone may encrypt a file for a public key: an archive is trusted no more than
what comes from the network.
"""

import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import msgspec
from msgspec import Struct, structs

from flctl.coordinator.store.audit import FILE as AUDIT
from flctl.coordinator.store.audit import Audit, local_actor
from flctl.coordinator.store.folder import all_runs
from flctl.coordinator.store.journal import verdict
from flctl.core.chain import verify, whole_lines
from flctl.errors import FlctlError, StateError, UsageError, decoded, one_line, printable
from flctl.files import explained, make_folder, sync_folder
from flctl.fleet.backup import ABOUT, BLOCK, FORMAT, NAME, PARTS, SINGLE, About
from flctl.folders import new_folder
from flctl.transport import allowlist
from flctl.transport.keypair import PUBLIC, load_or_make

MOST_FILES = 1_000_000
_ABOUT_BYTES = 64 * 1024
_CHUNK = 1 << 18


class Contents(Struct):
    """What is in a backup; `faults` are sentences."""

    about: About
    files: int = 0
    bytes: int = 0
    runs: dict[str, int] = {}
    """Bytes of each."""
    faults: list[str] = []


def look(archive: IO[bytes], where: str) -> Contents:
    """Read all of it. Raises StateError."""
    return _read(archive, where, lambda _name, _data: None)


def restore(archive: Callable[[Path], Contents], state: Path) -> Contents:
    """`archive` unpacks into the folder that it is given; that then becomes `state`.

    Raises UsageError when `state` has something in it, FlctlError: then nothing has changed.
    """
    path = Path(os.path.realpath(state))
    with explained(state, "restore the backup"):
        expect_empty(path, state)
    make_folder(path.parent)
    with explained(state, "restore the backup"), new_folder(path) as new:
        new.chmod(0o700)
        contents = archive(new)
        _mend(new, contents)
        by, args = local_actor(), {"made": contents.about.at, "on": contents.about.host}
        with Audit(new).action(by, "restore", args):
            pass
        for folder, _, _ in os.walk(new):
            sync_folder(Path(folder))
        expect_empty(path, state)
    return contents


def expect_empty(path: Path, named: Path) -> None:
    if os.path.lexists(path) and not (path.is_dir() and not any(path.iterdir())):
        raise UsageError(
            f"{named}: is not empty; a backup is restored into a new state folder: name one "
            "with --state"
        )


def unpack(archive: IO[bytes], where: str, into: Path) -> Contents:
    """All files, durable but for their names. Raises StateError."""
    open_file: list[IO[bytes]] = []

    def write(name: str, data: bytes | None) -> None:
        if data is None:
            path = into / name
            make_folder(path.parent)
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            open_file.append(os.fdopen(fd, "wb"))
        elif data:
            open_file[0].write(data)
        else:
            with open_file.pop() as file:
                file.flush()
                os.fsync(file.fileno())

    try:
        with explained(into.parent.parent, "restore the backup"):
            return _read(archive, where, write)
    finally:
        for file in open_file:
            file.close()


def _read(archive: IO[bytes], where: str, to: Callable[[str, bytes | None], None]) -> Contents:
    """Calls `to` with None at a file's beginning, b"" at its end, and its bytes in between."""
    members = _members(archive, where)
    name, size = next(members, ("", 0))
    if name != ABOUT or size > _ABOUT_BYTES:
        raise StateError(f"{where}: not a backup of flctl: it does not begin with {ABOUT}")
    with decoded(StateError, f"{where}, {ABOUT}"):
        about = msgspec.json.decode(b"".join(_data(archive, size, where)), type=About)
    if about.format != FORMAT:
        raise StateError(
            f"{where}: is of format {about.format}, made by flctl {printable(about.version, '')}; "
            f"this flctl reads {FORMAT}"
        )
    found, names = Contents(about, runs={}, faults=[]), {ABOUT}
    for name, size in members:
        if name in names or len(names) > MOST_FILES:
            raise StateError(f"{where}: {name}: appears twice, or there are too many files")
        names.add(name)
        to(name, None)
        for data in _data(archive, size, where):
            to(name, data)
        to(name, b"")
        found.files += 1
        found.bytes += size
        top, *rest = name.split("/")
        if top == "runs":
            found.runs[rest[0]] = found.runs.get(rest[0], 0) + size
    if archive.read(1):
        raise StateError(f"{where}: has data after its end")
    return found


def _members(archive: IO[bytes], where: str) -> Iterator[tuple[str, int]]:
    """Name and size of each plain file; the data must be read before the next one is asked for.

    Only plain headers are known, none that is followed by a name or an attribute of any length.
    """
    while True:
        block = archive.read(BLOCK)
        if block == bytes(BLOCK):
            if archive.read(BLOCK) != bytes(BLOCK):
                raise StateError(f"{where}: has data after its end")
            return
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
        except (tarfile.HeaderError, UnicodeDecodeError, ValueError) as error:
            raise StateError(f"{where}: damaged, or cut off: {one_line(error)}") from error
        shown = one_line(repr(info.name), 120)
        if info.type != tarfile.REGTYPE:
            raise StateError(f"{where}: {shown} is a link, a folder or a device, not a plain file")
        parts = info.name.split("/")
        known = info.name in (ABOUT, *SINGLE) or (parts[0] in PARTS and len(parts) > 1)
        if not known or not all(map(NAME.fullmatch, parts)) or info.size < 0:
            raise StateError(f"{where}: {shown} is no file of a state folder")
        yield info.name, info.size


def _data(archive: IO[bytes], size: int, where: str) -> Iterator[bytes]:
    left = size
    while left:
        if not (data := archive.read(min(_CHUNK, left))):
            raise StateError(f"{where}: cut off")
        left -= len(data)
        yield data
    if len(archive.read(-size % BLOCK)) != -size % BLOCK:
        raise StateError(f"{where}: cut off")


def _mend(new: Path, contents: Contents) -> None:
    """Check what was restored, and put the links back that an archive does not have.

    Raises StateError for keys with which no coordinator starts; other faults are noted.
    """
    if (new / "keys" / "allowed.json").exists():
        allowlist.read(new / "keys" / "allowed.json")
    key = new / "keys" / "server.key"
    if key.exists() or key.with_suffix(PUBLIC).exists():
        pair = load_or_make(key)
        contents.about = structs.replace(contents.about, server_key=pair.public)
    for folder in all_runs(new):
        try:
            history = folder.history(lean=True)
            if fault := verdict(folder.journal_path).fault:
                contents.faults.append(f"run {folder.name}: {fault}")
            folder.verify_model(history.round, history.model_of(history.round))
            make_folder(folder.rounds_path)
            if history.rounds:
                folder.mend(history, keep=0)
        except FlctlError as error:
            text = str(error).replace(f"{new}/", "")
            contents.faults.append(f"run {folder.name}: {text}")
    if (new / AUDIT).exists():
        try:
            with (new / AUDIT).open("rb") as file:
                fault = verify(whole_lines(file)).fault
        except ValueError as error:
            fault = str(error)
        if fault:
            contents.faults.append(f"{AUDIT}: {fault}")
