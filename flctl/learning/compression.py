"""Compresses the changes of local training, in the form that `flctl.wire.compression` reads.

fp16    Each number as a half, relative to the largest of its tensor: nothing overflows.
int8    QSGD (Alistarh et al. 2017, "QSGD: Communication-Efficient SGD via Gradient
        Quantization and Encoding") with 127 levels relative to the largest of each tensor,
        rounded up or down at random so that the mean is right.
topk    The largest entries of the change and of what was not sent before: error feedback,
        found by Seide et al. 2014, "1-Bit Stochastic Gradient Descent and its Application to
        Data-Parallel Distributed Training of Speech DNNs", proven for top-k by Stich et al.
        2018, "Sparsified SGD with Memory", and for every such compressor by Karimireddy et
        al. 2019, "Error Feedback Fixes SignSGD and other Gradient Compression Schemes".

Without torch, and all of it a function of the arguments and the kept residual alone.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from flctl.core.randomness import Seeding
from flctl.errors import TaskError
from flctl.learning.residuals import Residuals
from flctl.settings import LocalTraining
from flctl.wire.compression import VERSION, compression_metadata, kept_of, weights_of
from flctl.wire.messages import Digest
from flctl.wire.parameters import FLOATS, Array, TensorSpec, canonical, dump, to_float

Arrays = Mapping[str, tuple[str, Array]]
"""Name → storage type and array."""
Numbers = NDArray[np.float32]
LEVELS = 127


class Saved(Struct, frozen=True):
    """The file of an update."""

    blob: Digest
    size: int
    error: float = 0.0
    """‖v − v̂‖/‖v‖ of what was to be sent and of what is."""


def save_update(
    out: int | bytearray,
    before: Arrays,
    after: Arrays,
    training: LocalTraining,
    metadata: Mapping[str, Any],
    seeding: Seeding,
    *,
    batches: int,
    residuals: Path,
    buffers: Collection[str],
    durable: bool = True,
) -> Saved:
    """Write what has become of the model `before` to `out`, as `training.compression` says.

    `buffers` are those that the file of `before` names; they are sent as they are.
    `batches` is the number of those consumed; `residuals` is the folder for what top-k has not
    sent, durable when this returns, unless the caller sees to that.
    Raises TaskError for numbers that cannot be sent, StateError when the disk fails.
    """
    kind = training.compression
    if kind == "none":
        return Saved(*dump(out, after, metadata))
    specs = canonical(TensorSpec(name, dtype, a.shape) for name, (dtype, a) in after.items())
    weights, others = weights_of(specs, buffers)
    bounds = list(accumulate((spec.count for spec in weights), initial=0))
    left = np.zeros(bounds[-1], np.float32)
    if kind == "topk":
        left = Residuals(residuals).read(seeding.position, len(left))
    for spec, (begin, end) in zip(weights, pairwise(bounds), strict=True):
        _add_change(left[begin:end], before[spec.name], after[spec.name])
        if not np.isfinite(left[begin:end]).all():
            raise TaskError(
                f"agent {seeding.agent}, round {seeding.round}: tensor {spec.name} has changed by "
                "what is no finite number; begin a new run with a lower lr"
            )
    norm = _norm(left, bounds)
    match kind:  # each leaves in `left` what it does not say
        case "fp16":
            packed = halves(left, bounds)
        case "int8":
            chance = np.random.default_rng(seeding.derive("compress"))
            packed = levels(left, bounds, chance)
        case "topk":
            packed = largest(left, bounds, kept_of(len(left), training))
            kept, position = Residuals(residuals), seeding.position
            kept.keep(position + batches, left, before=position, durable=durable)
    exact = b"".join(after[s.name][1].tobytes() for s in others)
    packed["exact"] = "U8", np.frombuffer(exact, np.uint8)
    error = _norm(left, bounds) / norm if norm else 0.0
    version = VERSION if any(spec.dtype in FLOATS for spec in others) else 1
    return Saved(*dump(out, packed, {**metadata, **compression_metadata(kind, version)}), error)


Packed = dict[str, tuple[str, Array]]
"""Tensors of a compressed update."""


def halves(numbers: Numbers, bounds: Sequence[int]) -> Packed:
    """Values in [-1, 1], as fp16, and the scale of each tensor.

    Tensor i is `numbers[bounds[i] : bounds[i + 1]]`; what the values do not say stays there.
    """
    values = np.zeros(len(numbers), np.float16)
    scales = np.zeros(len(bounds) - 1, np.float32)
    for i, part in _scaled(bounds, numbers, scales, 1):
        values[part] = numbers[part] / scales[i]
        numbers[part] -= values[part].astype(np.float32) * scales[i]
    return {"values": ("F16", values), "scales": ("F32", scales)}


def levels(numbers: Numbers, bounds: Sequence[int], chance: np.random.Generator) -> Packed:
    """Round to whole values in [-127, 127] at random, so that the mean is right."""
    values = np.zeros(len(numbers), np.int8)
    scales = np.zeros(len(bounds) - 1, np.float32)
    for i, part in _scaled(bounds, numbers, scales, LEVELS):
        drawn = chance.random(part.stop - part.start, dtype=np.float32)
        values[part] = np.floor(numbers[part] / scales[i] + drawn).clip(-LEVELS, LEVELS)
        numbers[part] -= values[part].astype(np.float32) * scales[i]
    return {"values": ("I8", values), "scales": ("F32", scales)}


def largest(numbers: Numbers, bounds: Sequence[int], count: int) -> Packed:
    """The `count` numbers of the largest magnitude and their places; of equals the first."""
    magnitude = np.abs(numbers)
    # The least of them is well defined, unlike the order in which a partial sort has them.
    least = np.partition(magnitude, -count)[-count] if count else np.inf
    above, equal = np.flatnonzero(magnitude > least), np.flatnonzero(magnitude == least)
    places = np.sort(np.concatenate([above, equal[: count - len(above)]]))
    picked = numbers[places]
    packed = halves(picked, np.searchsorted(places, bounds).tolist())
    numbers[places] = picked
    return {**packed, "indices": ("I32", places)}


def _scaled(
    bounds: Sequence[int], numbers: Numbers, scales: Numbers, highest: int
) -> Iterator[tuple[int, slice]]:
    """Sets each tensor's scale; gives those in which there is anything to say."""
    for i, (begin, end) in enumerate(pairwise(bounds)):
        scales[i] = np.abs(numbers[begin:end]).max(initial=0) / highest
        if scales[i] > 0:
            yield i, slice(begin, end)


def _add_change(out: Numbers, before: tuple[str, Array], after: tuple[str, Array]) -> None:
    """out ← out + after − before, of a tensor's storage type and array each."""
    old, new = (to_float(array.reshape(-1), dtype) for dtype, array in (before, after))
    with np.errstate(over="ignore", invalid="ignore"):
        out += (new.astype(np.float64) - old).astype(np.float32)


def _norm(numbers: Numbers, bounds: Sequence[int]) -> float:
    """L2, in float64."""
    parts = (numbers[begin:end] for begin, end in pairwise(bounds))
    return math.sqrt(sum(float(np.square(part, dtype=np.float64).sum()) for part in parts))
