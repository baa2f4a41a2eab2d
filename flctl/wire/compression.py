"""Compressed updates: what an agent's training has changed, in fewer bytes.

A file of a few tensors, so that the header costs little even for a small model:

    values   fp16 and int8: the change of all weights, one after another in canonical order;
             topk: its largest entries, as fp16
    indices  topk: where in that order they stand, ascending
    scales   one number for each tensor of weights: change = scale · value
    exact    the bytes of all other tensors

Weights are the float tensors that the model's file does not name as buffers: statistics are of
another size than weights, and become useless (a variance below 0) when they are rounded like
them. Which tensors there are, their types and lengths follow from the run's settings and the
model that training began with, so whatever else arrives is refused.
"""

from collections.abc import Collection, Mapping, Sequence
from itertools import accumulate
from math import ceil
from typing import Any

import numpy as np

from flctl.errors import ParametersError
from flctl.settings import Compression, LocalTraining
from flctl.wire.parameters import (
    FLOATS,
    SLICE,
    STORAGE,
    Array,
    ParameterFile,
    Readable,
    TensorSpec,
    canonical,
    check,
    check_specs,
    from_float64,
    to_float,
)

VERSION = 2
"""Version of this format, in the file's metadata. Version 1 treated statistics as weights; for a
model without statistics both are the same, and the file still says 1."""
LONGEST = 2**31 - 1
"""Maximum count of a model's numbers that an index can address."""


def open_update(file: ParameterFile, base: ParameterFile, asked: LocalTraining) -> Readable:
    """The model that `file` stands for: itself, or a change of `base`.

    Raises ParametersError unless it has the form that was asked for and the tensors of `base`.
    """
    found, version = (file.metadata.get(key) for key in ("compression", "version"))
    if (found or "none") != asked.compression:
        is_so = f"is compressed as {found!r:.40}" if found else "is not compressed"
        raise ParametersError(f"{file.where}: {is_so}, the run asks for {asked.compression}")
    if asked.compression == "none":
        check_specs(file, base.specs)
        return file
    buffers = base.buffers
    if version == 1:
        buffers = frozenset()
    elif version != VERSION:
        raise ParametersError(
            f"{file.where}: compression of version {version!r:.40}, not {VERSION} or 1"
        )
    return CompressedUpdate(file, base, asked, buffers)


def check_update(file: ParameterFile, base: ParameterFile, asked: LocalTraining) -> None:
    """Check that `file` is a finite update as asked for. Raises ParametersError."""
    update = open_update(file, base, asked)
    if update is not file:
        check(file, file.specs)
    check(
        update, base.specs, base.buffers, base
    )  # base + change may be too large for the tensor's type


def compression_metadata(compression: Compression, version: int = VERSION) -> dict[str, Any]:
    return {} if compression == "none" else {"compression": compression, "version": version}


def weights_of(
    specs: Sequence[TensorSpec], buffers: Collection[str]
) -> tuple[list[TensorSpec], list[TensorSpec]]:
    """The tensors of which the change is compressed, and those that are sent as they are."""
    weights = [s for s in specs if s.dtype in FLOATS and s.name not in buffers]
    return weights, [s for s in specs if s.dtype not in FLOATS or s.name in buffers]


def packed_specs(
    specs: Sequence[TensorSpec], asked: LocalTraining, buffers: Collection[str] = ()
) -> tuple[TensorSpec, ...]:
    """The tensors of a compressed update of a model that has `specs`. Raises ParametersError."""
    weights, others = weights_of(specs, buffers)
    numbers = sum(spec.count for spec in weights)
    rest = sum(spec.nbytes for spec in others)
    packed = [TensorSpec("scales", "F32", (len(weights),)), TensorSpec("exact", "U8", (rest,))]
    if asked.compression == "topk":
        if numbers > LONGEST:
            raise ParametersError(f"topk is for models of up to {LONGEST} numbers; choose int8")
        kept = kept_of(numbers, asked)
        packed += [TensorSpec("values", "F16", (kept,)), TensorSpec("indices", "I32", (kept,))]
    else:
        dtype = {"fp16": "F16", "int8": "I8"}[asked.compression]
        packed.append(TensorSpec("values", dtype, (numbers,)))
    return canonical(packed)


def kept_of(numbers: int, asked: LocalTraining) -> int:
    """How many of a model's numbers top-k sends."""
    return min(numbers, ceil(asked.topk_share * numbers))


class CompressedUpdate:
    """Reads as the model base + change, in the storage types of `base`, part by part.

    Memory is that of a part. Raises ParametersError for another form than was asked for.
    """

    def __init__(
        self, file: ParameterFile, base: Readable, asked: LocalTraining, buffers: Collection[str]
    ) -> None:
        expected = packed_specs(base.specs, asked, buffers)
        check_specs(file, expected, f"this model's {asked.compression} update")
        self.where, self.specs = file.where, base.specs
        self._file, self._base = file, base
        packed = {spec.name: spec for spec in expected}
        self._exact = packed["exact"]
        weights, others = weights_of(base.specs, buffers)
        self._scales = self._read_scales(packed["scales"], weights)
        self._starts = starts(weights, others)
        self._values: _Dense | _Sparse
        if asked.compression == "topk":
            self._values = _Sparse(file, packed, sum(spec.count for spec in weights))
        else:
            self._values = _Dense(file, packed)

    def read(self, spec: TensorSpec, start: int = 0, count: int | None = None) -> Array:
        """Elements `start` … `start + count` of a tensor, flat, in its storage type."""
        count = spec.count - start if count is None else count
        first = self._starts[spec.name]
        if spec.name not in self._scales:
            width = STORAGE[spec.dtype].itemsize
            return self._file.read(self._exact, first + start * width, count * width).view(
                STORAGE[spec.dtype]
            )
        model = self._base.read(spec, start, count)
        places, values = self._values.read(first + start, count)
        wide = STORAGE["F64" if spec.dtype == "F64" else "F32"]
        changed: Array = to_float(model[places], spec.dtype).astype(wide)
        with np.errstate(over="ignore"):  # what becomes infinite is found by the check
            changed += values.astype(wide) * wide.type(self._scales[spec.name])
        model[places] = from_float64(changed, spec.dtype)
        return model

    def _read_scales(self, spec: TensorSpec, weights: Sequence[TensorSpec]) -> dict[str, float]:
        scales = self._file.read(spec)
        if not np.isfinite(scales).all() or (scales < 0).any():
            raise ParametersError(f"{self.where}: a scale is not a finite number, or below 0")
        return {s.name: float(scale) for s, scale in zip(weights, scales, strict=True)}


def starts(weights: Sequence[TensorSpec], others: Sequence[TensorSpec]) -> Mapping[str, int]:
    """Where each tensor begins: among all numbers, or among the exact bytes."""
    numbers = accumulate((spec.count for spec in weights), initial=0)
    exact = accumulate((spec.nbytes for spec in others), initial=0)
    return {
        spec.name: begin
        for specs, begins in ((weights, numbers), (others, exact))
        for spec, begin in zip(specs, begins, strict=False)
    }


class _Dense:
    """A value for each number of the model."""

    def __init__(self, file: ParameterFile, packed: Mapping[str, TensorSpec]) -> None:
        self._file, self._spec = file, packed["values"]

    def read(self, first: int, count: int) -> tuple[slice, Array]:
        return slice(None), self._file.read(self._spec, first, count)


class _Sparse:
    """Values at some places, zero elsewhere; a directory tells where each block's begin."""

    def __init__(self, file: ParameterFile, packed: Mapping[str, TensorSpec], length: int) -> None:
        self._file = file
        self._places, self._spec = packed["indices"], packed["values"]
        self._directory = self._look(length)

    def read(self, first: int, count: int) -> tuple[Array, Array]:
        """Places, counted from `first`, and the values there."""
        end = first + count
        low = self._directory[first // SLICE]
        high = self._directory[-(-end // SLICE)]
        places = self._file.read(self._places, low, high - low)
        begin, stop = np.searchsorted(places, [first, end])
        values = self._file.read(self._spec, low + int(begin), int(stop - begin))
        return places[begin:stop] - first, values

    def _look(self, length: int) -> list[int]:
        """How many places come before each multiple of SLICE. Raises ParametersError."""
        bounds = np.arange(0, length + SLICE, SLICE)
        directory = np.zeros(len(bounds), np.int64)
        last = -1
        for start in range(0, self._places.count, SLICE):
            count = min(SLICE, self._places.count - start)
            places = self._file.read(self._places, start, count)
            if places[0] <= last or (places[1:] <= places[:-1]).any() or places[-1] >= length:
                raise ParametersError(
                    f"{self._file.where}: indices are not ascending numbers below {length}"
                )
            last = int(places[-1])
            directory += np.searchsorted(places, bounds)
        found: list[int] = directory.tolist()
        return found
