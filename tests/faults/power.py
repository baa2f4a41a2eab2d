"""What a disk could hold after a power cut, from the record that `fault_points` has kept.

The rules are those that POSIX gives and no more: an fsync of a file keeps its bytes, not its
name; an fsync of a folder keeps the names in it, in that folder only. Everything else may be
on the disk or not: of a folder's names the first so many changes, of a file's bytes any blocks.
"""

import base64
import json
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BLOCK = 512


@dataclass
class File:
    safe: bytes = b""
    writes: list[tuple[int, bytes] | int] = field(default_factory=list)
    """Not synced: bytes at a place, or a new length."""

    def sync(self) -> None:
        self.safe, self.writes = self.now(), []

    def now(self) -> bytes:
        return self.after(self.writes)

    def after(self, writes: list[tuple[int, bytes] | int]) -> bytes:
        data = bytearray(self.safe)
        for write in writes:
            if isinstance(write, int):
                data = data[:write] + bytes(max(0, write - len(data)))
            else:
                at, new = write
                data += bytes(max(0, at - len(data)))
                data[at : at + len(new)] = new
        return bytes(data)

    def some(self, chance: random.Random) -> bytes:
        """Any of the blocks; what was not written within the length is zeros."""
        blocks: list[tuple[int, bytes] | int] = []
        for write in self.writes:
            if isinstance(write, int):
                blocks.append(write)
                continue
            at, new = write
            blocks += [(at + i, new[i : i + BLOCK]) for i in range(0, len(new), BLOCK)]
        return self.after([block for block in blocks if chance.random() < 0.5])


@dataclass
class Folder:
    safe: dict[str, "File | Folder"] = field(default_factory=dict)
    changes: list[dict[str, "File | Folder | None"]] = field(default_factory=list)
    """Not synced: names that came, or went (None); a rename is one change."""

    def sync(self) -> None:
        self.safe, self.changes = self.now(), []

    def now(self) -> dict[str, "File | Folder"]:
        return self.after(len(self.changes))

    def after(self, count: int) -> dict[str, "File | Folder"]:
        names: dict[str, File | Folder | None] = dict(self.safe)
        for change in self.changes[:count]:
            names.update(change)
        return {name: what for name, what in names.items() if what is not None}


class Disk:
    """The folder as it is now, all of it safe; then what the record says is done to it."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self._by_number: dict[int, File | Folder] = {}
        self.top = self._read(self.root)

    def replay(self, record: Path) -> None:
        for line in record.read_text().splitlines(keepends=True):
            if line.endswith("\n"):  # else its writer died over it, and over what it tells
                self._apply(json.loads(line))

    def rebuild(self, mode: str, chance: random.Random) -> None:
        """Put in the folder's place what a disk could hold: with `mode` "worst" only what was
        synced; "names" or "bytes" also all the rest of these; "mixed" any part of it."""
        shutil.rmtree(self.root)
        made: dict[int, Path] = {}
        self._write(self.top, self.root, mode, chance, made)

    def _read(self, path: Path) -> Folder:
        folder = Folder()
        self._by_number[path.stat().st_ino] = folder
        for child in path.iterdir():
            if child.is_dir():
                folder.safe[child.name] = self._read(child)
            elif child.is_file():  # a socket is nothing that a disk keeps
                number = child.stat().st_ino
                if number not in self._by_number:
                    self._by_number[number] = File(child.read_bytes())
                folder.safe[child.name] = self._by_number[number]
        return folder

    def _apply(self, entry: list[Any]) -> None:
        match entry:
            case ["create", path, number]:
                self._come(path, number, File())
            case ["mkdir", path, number]:
                self._come(path, number, Folder())
            case ["write", number, at, data]:
                self._file(number).writes.append((at, base64.b64decode(data)))
            case ["size", number, length]:
                self._file(number).writes.append(length)
            case ["sync", number]:
                self._by_number[number].sync()
            case ["rename", old, new]:
                before, after = self._folder(old), self._folder(new)
                target = after.now().get(Path(new).name)
                what = before.now()[Path(old).name]
                if target is what:
                    return  # it does nothing at all
                if before is after:
                    before.changes.append({Path(old).name: None, Path(new).name: what})
                else:  # each folder is synced by itself: it may have both names, or none
                    before.changes.append({Path(old).name: None})
                    after.changes.append({Path(new).name: what})
            case ["link", old, new]:
                self._folder(new).changes.append({Path(new).name: self._find(Path(old))})
            case ["remove", path]:
                self._folder(path).changes.append({Path(path).name: None})
            case _:
                raise ValueError(f"a line that nobody writes: {entry}")

    def _come(self, path: str, number: int, what: File | Folder) -> None:
        self._by_number[number] = what
        self._folder(path).changes.append({Path(path).name: what})

    def _file(self, number: int) -> File:
        found = self._by_number[number]
        assert isinstance(found, File)
        return found

    def _folder(self, path: str) -> Folder:
        found = self._find(Path(path).parent)
        assert isinstance(found, Folder)
        return found

    def _find(self, path: Path) -> File | Folder:
        found: File | Folder = self.top
        for name in path.relative_to(self.root).parts:
            assert isinstance(found, Folder)
            found = found.now()[name]
        return found

    def _write(
        self, folder: Folder, path: Path, mode: str, chance: random.Random, made: dict[int, Path]
    ) -> None:
        path.mkdir(mode=0o700)
        changes = len(folder.changes)
        kept = {"worst": 0, "bytes": 0, "names": changes}.get(mode)
        for name, what in folder.after(
            chance.randint(0, changes) if kept is None else kept
        ).items():
            if isinstance(what, Folder):
                self._write(what, path / name, mode, chance, made)
            elif id(what) in made:
                (path / name).hardlink_to(made[id(what)])
            else:
                made[id(what)] = path / name
                (path / name).write_bytes(held(what, mode, chance))
                (path / name).chmod(0o600)


def held(file: File, mode: str, chance: random.Random) -> bytes:
    match mode:
        case "worst" | "names":
            return file.safe
        case "bytes":
            return file.now()
        case _:
            return file.some(chance)


def modes(chance: random.Random) -> Iterator[str]:
    """Without end: the worst case every other time, in between another one."""
    while True:
        yield "worst"
        yield chance.choice(["names", "bytes", "mixed", "mixed"])
