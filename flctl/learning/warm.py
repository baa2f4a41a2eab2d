"""Weights that a run begins with: a checkpoint of flctl, safetensors from elsewhere, or a state
dict that torch has saved. No pickled code runs."""

import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flctl.errors import DataError, OwnerRefuses, ParametersError, TaskError, one_line
from flctl.files import absent, explained
from flctl.formats import few, size
from flctl.learning.state import assign, is_finite, load_frozen, load_state, specs_of
from flctl.learning.task import Task, initial_model
from flctl.learning.whole import frozen_of
from flctl.wire.messages import Begun
from flctl.wire.parameters import ParameterFile, check

SLACK = 64 * 2**20
TIMES = 4
"""A file may be this many times as large as the model: it may also hold an optimiser's state."""
WITHIN = ("state_dict", "model_state_dict", "model")
"""Where files that hold more than a state dict have it."""


def begin_from(model: nn.Module, path: Path, partial: bool) -> Begun:
    """Give `model` the weights in the file; with `partial` those that fit, the others stay.

    Raises DataError that names what is missing, unexpected, or of another shape or type.
    """
    own, buffers = model.state_dict(), {name for name, _ in model.named_buffers()}
    ours = {spec.name: spec for spec in specs_of(own)}
    most = TIMES * sum(spec.nbytes for spec in ours.values()) + SLACK
    digest, state = _read(path, most)
    try:
        theirs = {spec.name: spec for spec in specs_of(state)}
    except TaskError as error:
        raise DataError(f"{path}: {error}") from error
    fits = {name: state[name] for name, spec in theirs.items() if ours.get(name) == spec}
    lists = {
        "missing": sorted(ours.keys() - theirs.keys()),
        "unexpected": sorted(theirs.keys() - ours.keys()),
        "of another shape or type": [
            f"{theirs[name]} (here {ours[name].dtype}{list(ours[name].shape)})"
            for name in sorted(ours.keys() & theirs.keys() - fits.keys())
        ],
    }
    wrong = "; ".join(f"{what}: {few(names, 3)}" for what, names in lists.items() if names)
    if not fits:
        raise DataError(f"{path}: no tensor of it fits the task's model: {wrong}")
    if wrong and not partial:
        raise DataError(
            f"{path}: does not fit the task's model: {wrong}; --from-partial takes the "
            f"{len(fits)} of {len(ours)} tensors that fit"
        )
    for name, tensor in fits.items():
        if name not in buffers and not is_finite(tensor):
            raise DataError(f"{path}: tensor {name} holds NaN or infinite numbers")
    assign(model, {**own, **fits})
    return Begun(source=_source(path), digest=digest, tensors=len(fits), of=len(ours))


def expect_own(task: Task, start: Mapping[str, Tensor], seed: int) -> None:
    """Check that `start` is the first model that the task makes of this seed. Raises
    OwnerRefuses."""
    own = initial_model(task, seed).state_dict()
    for name, tensor in start.items():
        if name not in own or not _is_near(own[name], tensor):
            raise OwnerRefuses(
                f"the run begins with other weights than task '{task.name}' has with seed {seed} "
                f"(tensor {name}), and --accept-weights is not given"
            )


def _is_near(one: Tensor, other: Tensor) -> bool:
    """Processors differ in the last bits."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return torch.allclose(one.double(), other.double(), rtol=1e-3, atol=1e-5, equal_nan=True)


def _read(path: Path, most: int) -> tuple[str, dict[str, Tensor]]:
    """Its sha256 and its tensors. Raises DataError."""
    if not path.is_file():
        raise DataError(f"{path}: {absent(path) if not path.exists() else 'is not a file'}")
    with explained(path, "read the model"), path.open("rb") as file:
        there = path.stat().st_size
        if there > most:
            raise DataError(
                f"{path}: {size(there)}, more than {size(most)}, the most for the task's model"
            )
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0)
        start = file.read(9)
        if start[8:] == b"{":
            try:
                found = ParameterFile(file.fileno(), str(path))
                check(found, found.specs, [spec.name for spec in found.specs])
                rest = load_frozen(frozen_of(path))
                return digest, load_state(file.fileno(), str(path)) | rest
            except ParametersError as error:
                raise DataError(str(error)) from error
        return digest, _unpickled(path, most)


def _unpickled(path: Path, most: int) -> dict[str, Tensor]:
    """The state dict of a file that torch.save has written."""
    there = 0
    found: Any = None
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as packed:
                there = sum(entry.file_size for entry in packed.infolist())
        if there <= most:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise DataError(
            f"{path}: neither safetensors nor a plain state dict of torch: {one_line(error, 160)}"
        ) from error
    if there > most:
        raise DataError(f"{path}: unpacked {size(there)}, too large for the task's model")
    for name in WITHIN:
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
    if not isinstance(found, Mapping) or not found or not all(map(_is_plain, found.items())):
        raise DataError(
            f"{path}: holds no plain state dict, which names tensors; save one with "
            "torch.save(model.state_dict(), …)"
        )
    return {name: tensor.detach() for name, tensor in found.items()}


def _is_plain(item: tuple[object, object]) -> bool:
    name, tensor = item
    return (
        isinstance(name, str)
        and name.isprintable()
        and isinstance(tensor, Tensor)
        and tensor.layout == torch.strided
        and not tensor.is_quantized
    )


def _source(path: Path) -> str:
    """What to call it: a run's model, or the file's name."""
    *_, run, rounds, number, name = ("", "", "", *path.absolute().parts)
    if (rounds, name) == ("rounds", "model.safetensors") and number.isdecimal():
        return f"run {one_line(run, 150)}, round {int(number)}"
    return one_line(path.name, 190)
