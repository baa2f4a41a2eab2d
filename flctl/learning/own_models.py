"""The models that a device has for itself alone, each with a record of how it was made.

An agent's folder own/personal, or personal/AGENT of a virtual or local run's, holds for each of the
last few models that were personalised

MODEL-KEY.json          the record; written last, so that what it names is there
MODEL-KEY.safetensors   the model, if it beats the run's

A key stands for all that the model depends on. One that is found again is not computed again.
"""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct
from torch import Tensor

from flctl.digests import has_digest
from flctl.errors import NOT_DECODED, StateError
from flctl.files import explained, make_folder, new_file, replace
from flctl.learning.personal import Data, Outcome, Way
from flctl.learning.state import save_state
from flctl.values import names_run
from flctl.wire.messages import Digest

KEPT = 4
"""Records that stay, the newest, with their models."""
SLACK_BYTES = 16 * 2**20
"""Room that a model leaves on the card."""
SHORT = 16
"""Characters of a digest in a file's name."""


class OwnRecord(Struct, frozen=True, forbid_unknown_fields=True):
    schema: Annotated[int, Meta(ge=1, le=1)]
    base: Digest
    """The run's model."""
    run: str
    key: Digest
    outcome: Outcome
    model: Digest | None = None
    """Digest of the file of the own model; None: the run's model is used."""


def key_of(base: Digest, code: Digest, data: Data, way: Way) -> Digest:
    """Of all that the outcome depends on; `code` is the digest of the task's."""
    parts = [None if part is None else part.digest for part in data]
    return hashlib.sha256(msgspec.json.encode([base, code, parts, way])).hexdigest()


class OwnModels:
    """In `folder`, which is made when needed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, base: Digest, key: Digest) -> OwnRecord | None:
        """The record of what was done already, if all of it is there; it is the newest now."""
        path = self._path(base, key)
        record = _read(path)
        if record is None or record.key != key or record.base != base:
            return None
        if record.model is not None and not has_digest(self.model_path(record), record.model):
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return record

    def keep(
        self, record: OwnRecord, state: Mapping[str, Tensor], metadata: Mapping[str, Any]
    ) -> None:
        """Store the outcome durably, whole or not at all, and the own model if it is kept.

        Raises StateError, also where the card has no room.
        """
        make_folder(self._folder)
        path, model = self._path(record.base, record.key), self.model_path(record)
        kept = state.values() if record.outcome.kept else ()
        self._make_room(path, sum(t.numel() * t.element_size() for t in kept))
        if record.outcome.kept:
            with explained(model, "keep the device's own model"), new_file(model, 0o600) as file:
                digest, _ = save_state(file.fileno(), state, metadata)
            record = msgspec.structs.replace(record, model=digest)
        replace(path, msgspec.json.encode(record) + b"\n")
        if not record.outcome.kept:
            with contextlib.suppress(OSError):  # one that was damaged
                model.unlink(missing_ok=True)

    def newest(self, base: Digest | None = None, run: str = "") -> tuple[OwnRecord, Path] | None:
        """The newest record of that model, or of a run whose name begins or ends so, with the own
        model's file; None where the run's model is used."""
        for path in self._paths():
            record = _read(path)
            if record is None or not (record.base == base or (run and names_run(run, record.run))):
                continue
            model = self.model_path(record)
            if record.model is None or not has_digest(model, record.model):
                return None
            return record, model
        return None

    def model_path(self, record: OwnRecord) -> Path:
        return self._path(record.base, record.key).with_suffix(".safetensors")

    def _path(self, base: Digest, key: Digest) -> Path:
        return self._folder / f"{base[:SHORT]}-{key[:SHORT]}.json"

    def _paths(self) -> Iterator[Path]:
        """Records, the newest first."""
        with contextlib.suppress(OSError):
            paths = [p for p in self._folder.glob("*.json") if not p.name.startswith(".")]
            yield from sorted(paths, key=lambda p: (-p.stat().st_mtime_ns, p.name))

    def _make_room(self, path: Path, size: int) -> None:
        others = [other for other in self._paths() if other != path]
        for old in others[KEPT - 1 :]:
            with contextlib.suppress(OSError):
                old.unlink()  # first: a record without its model would be one that lies
                old.with_suffix(".safetensors").unlink(missing_ok=True)
        records = {other.stem for other in self._paths()} | {path.stem}
        for model in self._folder.glob("*.safetensors"):
            if model.stem not in records:  # a crash came between the two
                with contextlib.suppress(OSError):
                    model.unlink()
        with explained(self._folder, "look for room"):
            free = shutil.disk_usage(self._folder).free
        if free < size + SLACK_BYTES:
            raise StateError(
                f"{self._folder}: an own model needs {(size + SLACK_BYTES) >> 20} MiB here, "
                f"{free >> 20} MiB are free; make room"
            )


def _read(path: Path) -> OwnRecord | None:
    """None if it is missing or damaged."""
    with contextlib.suppress(OSError, *NOT_DECODED):
        return msgspec.json.decode(path.read_bytes(), type=OwnRecord)
    return None
