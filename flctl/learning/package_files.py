"""The digest of code: all files of its package, whatever computer it is installed on."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from flctl.digests import file_digest

COMPILED = frozenset({".pyc", ".pyo", ".so", ".pyd", ".dylib", ".dll"})
"""Made from the sources: they differ between a Pi and the coordinator's computer."""
KEPT = 64
_digests: dict[Path, tuple[tuple[object, ...], str]] = {}
"""By folder: what its files looked like, and their digest."""


def code_digest(file: Path, module: str) -> str:
    """sha256 of what `covered_by` names, in hexadecimal. Raises OSError."""
    root = covered_by(file, module)
    return folder_digest(root) if root.is_dir() else file_digest(root)


def covered_by(file: Path, module: str) -> Path:
    """The folder of the outermost package that the module lies in, else its file; of flctl's own
    its folder: an agent may be of another version as long as it trains in the same way."""
    parts = module.split(".") if file.name == "__init__.py" else module.split(".")[:-1]
    root, folder = file, file.parent
    for name in reversed(parts):
        # A folder without __init__.py is a namespace, which other distributions share.
        if folder.name != name or not (folder / "__init__.py").exists():
            break
        root, folder = folder, folder.parent
        if parts[0] == "flctl":
            break
    return root


def folder_digest(folder: Path) -> str:
    """sha256 over the names and contents of all files of `folder` and below, in order of names.

    Compiled and hidden files do not count. The files are read again only when the time, the
    size or the inode of one has changed. Raises OSError.
    """
    files = list(_files(folder))
    stamp = tuple(
        (name, status.st_mtime_ns, status.st_size, status.st_ino)
        for name, status in ((name, (folder / name).stat()) for name in files)
    )
    known = _digests.get(folder)
    if known is not None and known[0] == stamp:
        return known[1]
    total = hashlib.sha256()
    for name in files:
        # The digest of each file has a fixed length: no two sets of files give the same bytes.
        total.update(f"{file_digest(folder / name)} {len(name.encode())} {name}\n".encode())
    found = total.hexdigest()
    while len(_digests) >= KEPT:
        del _digests[next(iter(_digests))]
    _digests[folder] = stamp, found
    return found


def _files(folder: Path) -> Iterator[str]:
    """Relative, with "/", in order. Raises OSError for a folder that cannot be read."""

    def fail(error: OSError) -> None:
        raise error

    found = []
    for at, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if name != "__pycache__" and name[0] != "."]
        for name in names:
            path = Path(at, name)
            if name[0] != "." and path.suffix not in COMPILED and path.is_file():
                found.append(path.relative_to(folder).as_posix())
    yield from sorted(found, key=os.fsencode)
