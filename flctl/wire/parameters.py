"""Model parameters as safetensors files, read and written in slices.

The format is https://github.com/huggingface/safetensors: 8 bytes of header length,
a JSON header, the tensors' bytes without gaps. Own code rather than the library,
because the coordinator needs what that does not give: reading a slice without mapping
the file (a mapped file counts as memory for every update of a round), a header that is
checked before it is believed, and the same bytes for the same model (the library
writes metadata in random order). `safetensors.safe_open` reads what is written here.
"""

import hashlib
import os
from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache
from math import prod
from typing import Annotated, Any, Protocol, TypeAlias

import msgspec
import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from flctl.errors import ParametersError, decoded

Array = NDArray[Any]
Source: TypeAlias = int | bytes | bytearray | memoryview
"""An open file's descriptor, or the bytes of a file in memory."""

STORAGE: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),  # numpy has no bfloat16: kept as its bit pattern
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
HEADER_LIMIT = 4 * 1024 * 1024
TENSORS_LIMIT = 100_000
NAME_LIMIT = 400
"""Characters of a tensor's name: names of a stranger's file stand in errors and logs."""
SLICE = 64 * 1024
"""Elements handled at a time: memory is bounded by this, not by the largest tensor."""


class TensorSpec(Struct, frozen=True, order=True):
    """Name, storage type and shape of one tensor."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.count * STORAGE[self.dtype].itemsize

    def __str__(self) -> str:
        return f"{self.name} {self.dtype}{list(self.shape)}"


class _Entry(Struct, forbid_unknown_fields=True):
    dtype: Annotated[str, Meta(max_length=16)]
    shape: Annotated[tuple[Annotated[int, Meta(ge=0, le=2**40)], ...], Meta(max_length=16)]
    data_offsets: tuple[Annotated[int, Meta(ge=0)], Annotated[int, Meta(ge=0)]]


_header = msgspec.json.Decoder(dict[str, msgspec.Raw])
_entry = msgspec.json.Decoder(_Entry)
_metadata = msgspec.json.Decoder(dict[str, str])
_canonical = msgspec.json.Encoder(order="sorted")


def canonical(specs: Iterable[TensorSpec]) -> tuple[TensorSpec, ...]:
    """The order of tensors in a file: widest type first, for alignment; then by name."""
    return tuple(sorted(specs, key=lambda s: (-STORAGE[s.dtype].itemsize, s.name)))


class Tensors(Protocol):
    """Named tensors of which parts can be read."""

    def read(self, spec: TensorSpec, start: int = 0, count: int | None = None) -> Array: ...


class Readable(Tensors, Protocol):
    """`where` names them in errors."""

    where: str
    specs: tuple[TensorSpec, ...]


class ParameterFile:
    """A safetensors file, open or in memory, whose header has been checked.

    A descriptor stays the caller's; `where` names the file or agent in errors.
    Raises ParametersError.
    """

    def __init__(self, source: Source, where: str) -> None:
        self.fd = source if isinstance(source, int) else -1
        self._memory = None if isinstance(source, int) else memoryview(source)
        self.where = where
        self.size = os.fstat(self.fd).st_size if self._memory is None else len(self._memory)
        header_bytes = self._header()
        self._start = 8 + len(header_bytes)
        self.metadata: dict[str, Any] = {}
        self._offsets: dict[str, int] = {}
        self.specs = self._parse(header_bytes)

    @property
    def buffers(self) -> frozenset[str]:
        """The tensors that the file says are statistics, not weights; none in one that does not
        say. Raises ParametersError."""
        with decoded(ParametersError, f"{self.where}: its list of buffers is damaged"):
            return msgspec.convert(self.metadata.get("buffers", ()), frozenset[str])

    def read(self, spec: TensorSpec, start: int = 0, count: int | None = None) -> Array:
        """Elements `start` … `start + count` of a tensor, flat, in its storage type."""
        dtype = STORAGE[spec.dtype]
        count = spec.count - start if count is None else count
        array = np.empty(count, dtype=dtype)
        offset = self._start + self._offsets[spec.name] + start * dtype.itemsize
        view = memoryview(array.data).cast("B") if count else memoryview(b"")
        got = 0
        while got < len(view):
            n = self._read_into(view[got:], offset + got)
            if n == 0:
                raise ParametersError(f"{self.where}: ends within tensor {spec.name}")
            got += n
        return array

    def _header(self) -> bytes:
        length = int.from_bytes(self._bytes(8, 0), "little")
        if self.size < 10 or not 2 <= length <= min(HEADER_LIMIT, self.size - 8):
            raise ParametersError(f"{self.where}: not a safetensors file")
        return self._bytes(length, 8)

    def _bytes(self, count: int, offset: int) -> bytes:
        data = bytearray(count)
        return bytes(data[: self._read_into(memoryview(data), offset)])

    def _read_into(self, view: memoryview, offset: int) -> int:
        """Bytes from `offset` on; how many."""
        if self._memory is None:
            return os.preadv(self.fd, [view], offset)
        part = self._memory[offset : offset + len(view)]
        view[: len(part)] = part
        return len(part)

    def _parse(self, header: bytes) -> tuple[TensorSpec, ...]:
        with decoded(ParametersError, f"{self.where}: not a safetensors file"):
            raw = _header.decode(header)
            metadata = _metadata.decode(raw.pop("__metadata__", msgspec.Raw(b"{}")))
            entries = {name: _entry.decode(value) for name, value in raw.items()}
        with decoded(ParametersError, f"{self.where}: its metadata are damaged"):
            self.metadata = msgspec.json.decode(metadata.get("flctl", "{}"), type=dict[str, Any])
        if len(entries) > TENSORS_LIMIT:
            raise ParametersError(f"{self.where}: {len(entries)} tensors, {TENSORS_LIMIT} at most")
        end = 0
        specs = []
        for name, entry in sorted(entries.items(), key=lambda item: item[1].data_offsets):
            if len(name) > NAME_LIMIT or not name.isprintable():
                raise ParametersError(f"{self.where}: the name of a tensor is too long or not text")
            if entry.dtype not in STORAGE:
                raise ParametersError(f"{self.where}: tensor {name} is of type {entry.dtype!r}")
            spec = TensorSpec(name, entry.dtype, entry.shape)
            if entry.data_offsets != (end, end + spec.nbytes):
                raise ParametersError(f"{self.where}: tensor {name} has wrong offsets")
            self._offsets[name] = end
            end += spec.nbytes
            specs.append(spec)
        if self._start + end != self.size:
            raise ParametersError(
                f"{self.where}: {self.size} bytes long, its header says {self._start + end}"
            )
        return canonical(specs)


class ParameterWriter:
    """Writes a safetensors file from its start, tensor after tensor, hashing on the way.

    Feed `write` the elements of all `specs` in canonical order, in slices of any size. A
    bytearray as `out` grows.
    """

    def __init__(
        self,
        out: int | bytearray,
        specs: Iterable[TensorSpec],
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        self._out = out
        self.specs, header = _headed(tuple(specs), _canonical.encode(metadata or {}))
        self._hash = hashlib.sha256()
        self._written = 0
        self._due = len(header) + sum(spec.nbytes for spec in self.specs)
        self._put(header)

    def write(self, array: Array) -> None:
        """The next elements, in the storage type of the tensor they belong to."""
        if array.size:
            self._put(np.ascontiguousarray(array).data.cast("B"))

    def finish(self) -> tuple[str, int]:
        """sha256 in hexadecimal, and the size in bytes."""
        if self._written != self._due:
            raise ParametersError(f"wrote {self._written} of {self._due} bytes of parameters")
        return self._hash.hexdigest(), self._written

    def _put(self, data: bytes | memoryview) -> None:
        self._hash.update(data)
        self._written += len(data)
        if isinstance(self._out, bytearray):
            self._out += data
            return
        view = memoryview(data)
        while view:
            view = view[os.write(self._out, view) :]


def dump(
    out: int | bytearray,
    tensors: Mapping[str, tuple[str, Array]],
    metadata: Mapping[str, Any] | None = None,
) -> tuple[str, int]:
    """Write `tensors` (name → storage type and array) to `out`; its sha256 and size."""
    specs = [TensorSpec(name, dtype, tuple(a.shape)) for name, (dtype, a) in tensors.items()]
    writer = ParameterWriter(out, specs, metadata)
    for spec in writer.specs:
        array = tensors[spec.name][1]
        writer.write(np.ascontiguousarray(array, dtype=STORAGE[spec.dtype]).reshape(-1))
    return writer.finish()


def check(
    file: Readable,
    specs: tuple[TensorSpec, ...],
    buffers: Collection[str] = (),
    base: Readable | None = None,
) -> None:
    """Check that `file` holds exactly the tensors `specs`, with finite numbers; `buffers`, such as
    a mask of −∞, may hold others, and with a `base` only the same bytes as there.

    Raises ParametersError that names the first tensor that does not fit.
    """
    check_specs(file, specs)
    for spec in specs:
        if spec.dtype not in FLOATS and spec.dtype != "BOOL":
            continue
        for start in range(0, spec.count, SLICE):
            part = file.read(spec, start, min(SLICE, spec.count - start))
            if spec.dtype == "BOOL":
                if part.view(np.uint8).max() > 1:
                    raise ParametersError(
                        f"{file.where}: tensor {spec.name} holds bytes that are neither 0 nor 1"
                    )
            elif not _finite(part, spec.dtype) and not (
                spec.name in buffers
                and (base is None or base.read(spec, start, len(part)).tobytes() == part.tobytes())
            ):
                raise ParametersError(
                    f"{file.where}: tensor {spec.name} holds NaN or infinite numbers"
                )


def check_specs(file: Readable, specs: tuple[TensorSpec, ...], of: str = "the model") -> None:
    """Check that names, types and shapes are those of `specs`; the numbers are not read.

    Raises ParametersError that names the first difference; `of` says whose `specs` are.
    """
    if file.specs == specs:
        return
    theirs = {spec.name: spec for spec in file.specs}
    for spec in specs:
        other = theirs.pop(spec.name, None)
        if other is None:
            raise ParametersError(f"{file.where}: tensor {spec.name} is missing")
        if other != spec:
            raise ParametersError(f"{file.where}: tensor {other}, {of} has {spec}")
    raise ParametersError(f"{file.where}: tensor {min(theirs)} is not in {of}")


def to_float(array: Array, dtype: str) -> Array:
    """Elements of a float tensor in storage type `dtype` as numbers; BF16 as float32."""
    if dtype == "BF16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array


def from_float64(array: NDArray[np.float64], dtype: str) -> Array:
    """Round float64 to storage type `dtype`, to nearest even."""
    with np.errstate(over="ignore"):
        if dtype != "BF16":
            return array.astype(STORAGE[dtype])
        bits = array.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _finite(array: Array, dtype: str) -> bool:
    if dtype == "BF16":
        return not bool(np.any((array & 0x7F80) == 0x7F80))
    return bool(np.isfinite(array).all())


@lru_cache(maxsize=64)
def _headed(specs: tuple[TensorSpec, ...], metadata: bytes) -> tuple[tuple[TensorSpec, ...], bytes]:
    """In canonical order, and the file's header; the updates of a round all have the same."""
    ordered = canonical(specs)
    header: dict[str, Any] = {}
    if metadata != b"{}":
        header["__metadata__"] = {"flctl": metadata.decode()}
    end = 0
    for spec in ordered:
        start, end = end, end + spec.nbytes
        header[spec.name] = {"dtype": spec.dtype, "shape": spec.shape, "data_offsets": (start, end)}
    text = msgspec.json.encode(header)
    text += b" " * (-len(text) % 8)
    return ordered, len(text).to_bytes(8, "little") + text
