"""Where a run has the tensors that are not in the models of its rounds, and whole models."""

import contextlib
import hashlib
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flctl.digests import file_digest, has_digest
from flctl.errors import CheckpointError, FlctlError, ParametersError
from flctl.files import explained, new_file
from flctl.wire.merging import FROZEN as FROZEN_PART
from flctl.wire.merging import Merged
from flctl.wire.messages import Digest
from flctl.wire.parameters import ParameterFile

logger = logging.getLogger(__name__)

FROZEN = "frozen.safetensors"
"""The file in a run's folder with the tensors that do not train."""


def private_path(run: Path, agent: str) -> Path:
    """Folder of the private tensors of a virtual or local agent, which no backup has."""
    return run / ".private" / agent


def metadata_of(model: Path) -> dict[str, Any]:
    """What a checkpoint says about itself. Raises CheckpointError."""
    try:
        with model.open("rb") as file:
            return ParameterFile(file.fileno(), str(model)).metadata
    except OSError as error:
        raise CheckpointError(f"{model}: cannot be read: {error.strerror}") from error
    except ParametersError as error:
        raise CheckpointError(f"{error}: not a checkpoint of flctl, or a damaged one") from error


def round_model(checkpoint: Path) -> Digest:
    """Digest of the round's model that it is: of a whole one, of its shared tensors. Raises
    CheckpointError."""
    named = metadata_of(checkpoint).get("model")
    return named if isinstance(named, str) else file_digest(checkpoint)


def frozen_of(model: Path) -> Path | None:
    """The file with the rest of the model in a run's folder; None for a whole one.

    Raises CheckpointError for a file that is none, was taken out of that folder, or put into
    another one.
    """
    rest = metadata_of(model).get(FROZEN_PART)
    if not isinstance(rest, str):
        return None
    if (path := beside(model)) is None:
        raise CheckpointError(
            f"{model}: has only the tensors that train; the rest stays in the folder of its run: "
            "make a whole one with flctl runs export RUN --format safetensors"
        )
    if not has_digest(path, rest):
        raise CheckpointError(f"{path}: damaged, or not the rest of {model}")
    return path


def beside(model: Path) -> Path | None:
    """The frozen part of the run in whose folder the round's model is, if there is one."""
    places = (folder / FROZEN for folder in model.resolve().parents[:3])
    return next((path for path in places if path.is_file()), None)


def merge(model: Path, frozen: Path, target: Path) -> None:
    """Write one file of both to `target`. Raises FlctlError."""
    with (
        explained(target, "save the model"),
        model.open("rb") as one,
        frozen.open("rb") as other,
        new_file(target) as file,
    ):
        parts = [ParameterFile(f.fileno(), str(p)) for f, p in ((one, model), (other, frozen))]
        digest = hashlib.file_digest(one, "sha256").hexdigest()
        Merged(parts).write(file.fileno(), digest)


@contextlib.contextmanager
def whole(model: Path) -> Iterator[Path]:
    """A file with the whole model, during the block: `model` itself, unless there is more of it.

    Raises FlctlError.
    """
    frozen = frozen_of(model)
    if frozen is None:
        yield model
        return
    with tempfile.TemporaryDirectory(prefix="flctl-model-") as folder:
        path = Path(folder) / model.name
        merge(model, frozen, path)
        yield path


def write_whole(model: Path, frozen: Path, target: Path) -> None:
    """As `merge`; a disk without room for it leaves the parts, which are enough."""
    try:
        merge(model, frozen, target)
    except FlctlError as error:
        logger.warning("%s could not be written, the rounds' models are there: %s", target, error)
