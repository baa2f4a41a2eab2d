"""A model's state dict as a safetensors blob and back, exactly."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from flctl.errors import CheckpointError, ParametersError, TaskError, one_line
from flctl.wire.merging import PRIVATE, Merged
from flctl.wire.parameters import (
    ParameterFile,
    Readable,
    Source,
    TensorSpec,
    canonical,
    check,
    dump,
)

FORMAT = 1

_NAMES: dict[torch.dtype, str] = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}


def checkpoint_metadata(task: str) -> dict[str, Any]:
    """What a checkpoint says about itself: no times and no run, so equal models are equal bytes."""
    return {"task": task, "format": FORMAT}


def specs_of(state: Mapping[str, Tensor]) -> tuple[TensorSpec, ...]:
    """Names, types and shapes in canonical order. Raises TaskError for what cannot be stored."""
    return canonical(
        TensorSpec(name, _storage_name(name, tensor), tuple(tensor.shape))
        for name, tensor in state.items()
    )


def save_state(
    out: int | bytearray, state: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None
) -> tuple[str, int]:
    """Write `state` to `out`; the sha256 and the size of what was written.

    Raises TaskError when it holds something that is not a storable tensor.
    """
    return dump(out, arrays_of(state), metadata)


def arrays_of(state: Mapping[str, Tensor]) -> dict[str, tuple[str, np.ndarray[Any, Any]]]:
    """Name → storage type and array, which shares the tensor's memory. Raises TaskError."""
    return {name: (_storage_name(name, t), _to_array(t)) for name, t in state.items()}


def load_state(source: Source, where: str) -> dict[str, Tensor]:
    """All tensors of a blob, on the CPU. Raises ParametersError; `where` names the file."""
    return tensors_of(ParameterFile(source, where))


def tensors_of(file: Readable) -> dict[str, Tensor]:
    """The same of an open one."""
    return {spec.name: _to_tensor(file, spec) for spec in file.specs}


def buffers_in(fd: int, where: str) -> frozenset[str]:
    """The tensors that a blob names as buffers. Raises ParametersError."""
    return ParameterFile(fd, where).buffers


def load_into(model: nn.Module, fd: int, where: str, *parts: Path | None) -> None:
    """Give `model` the parameters and buffers in `fd`, and in the files of its other parts, if
    names, types and shapes all fit.

    Raises CheckpointError that names the first difference; the model is unchanged then.
    """
    with contextlib.ExitStack() as stack:
        try:
            files = [ParameterFile(fd, where)]
            for path in filter(None, parts):
                part = stack.enter_context(opened(path))
                files.append(ParameterFile(part.fileno(), str(path)))
            file = Merged(files)
            expect_own(file, where)
            check(file, specs_of(model.state_dict()), [name for name, _ in model.named_buffers()])
        except ParametersError as error:
            why = "damaged, or of another model, or of another version of the task"
            raise CheckpointError(f"{error} ({why})") from error
        assign(model, tensors_of(file))


def expect_own(file: Merged, where: str) -> None:
    """Raises CheckpointError for a model without its private tensors."""
    names = [n for n in file.metadata.get(PRIVATE, ()) if n not in {s.name for s in file.specs}]
    if names:
        raise CheckpointError(
            f"{where}: is without {one_line(', '.join(map(str, names)), 80)}, which each agent has "
            "for itself: give it those of one, on its device, with --private STATE/own/private/RUN"
        )


def load_frozen(path: Path | None) -> dict[str, Tensor]:
    """The tensors of a model's frozen part; none without one. Raises CheckpointError."""
    if path is None:
        return {}
    with opened(path) as file:
        return load_state(file.fileno(), str(path))


@contextlib.contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    with file:
        yield file


def assign(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy `state` into `model`. Raises CheckpointError when it is another model's."""
    ours, theirs = specs_of(model.state_dict()), specs_of(state)
    if ours != theirs:
        odd = min(set(ours) ^ set(theirs))
        raise CheckpointError(f"a checkpoint of another model: they differ in tensor {odd}")
    for tensor in model.state_dict(keep_vars=True).values():
        if 0 in tensor.stride() and tensor.numel() > 1:  # expanded: its numbers have no room
            tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)
    model.load_state_dict(dict(state))


def expect_finite(model: nn.Module) -> None:
    """Check that the weights are finite; buffers need not be. Raises TaskError."""
    buffers = {name for name, _ in model.named_buffers()}
    for name, tensor in model.state_dict().items():
        if name not in buffers and not is_finite(tensor):
            raise TaskError(
                f"the model's state '{name}' holds NaN or infinite numbers, which are no weights; "
                "a mask or the like is a buffer, which model() makes with register_buffer"
            )


def is_finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def same_bytes(one: Tensor, other: Tensor) -> bool:
    """Also where NaN is the same NaN."""
    return _to_array(one).tobytes() == _to_array(other).tobytes()


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the model's state on the CPU, which further training does not change."""
    return {name: t.detach().to("cpu", copy=True) for name, t in model.state_dict().items()}


def _storage_name(name: str, tensor: object) -> str:
    if isinstance(tensor, UninitializedParameter | UninitializedBuffer) or (
        isinstance(tensor, Tensor) and tensor.is_meta
    ):
        raise TaskError(
            f"the model's state '{name}' has no numbers yet: say the sizes of its layers rather "
            "than use lazy ones, and build it on the CPU"
        )
    if not isinstance(tensor, Tensor) or tensor.dtype not in _NAMES:
        kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
        raise TaskError(f"the model's state '{name}' is {kind}, which a checkpoint cannot hold")
    return _NAMES[tensor.dtype]


def _to_array(tensor: Tensor) -> np.ndarray[Any, Any]:
    plain = tensor.detach().cpu().contiguous()
    if plain.dtype == torch.bfloat16:
        plain = plain.view(torch.int16)
        return plain.numpy().view(np.uint16)
    return plain.numpy()


def _to_tensor(file: Readable, spec: TensorSpec) -> Tensor:
    array = file.read(spec)
    if spec.dtype == "BF16":
        tensor = torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    else:
        tensor = torch.from_numpy(array)
    assert tensor.dtype == _DTYPES[spec.dtype]
    return tensor.reshape(spec.shape)
