"""Tensors read slice by slice, so that memory does not grow with their size."""

from collections.abc import Callable, Iterator, Sequence

from msgspec import Struct

from flctl.wire.parameters import Array, Tensors, TensorSpec, to_float


class Slice(Struct, frozen=True):
    """Some elements of one tensor."""

    spec: TensorSpec
    start: int
    count: int

    def of(self, tensors: Tensors) -> Array:
        """As numbers, if they are stored as such; BF16 as float32."""
        return to_float(tensors.read(self.spec, self.start, self.count), self.spec.dtype)


def slices(specs: Sequence[TensorSpec], length: Callable[[TensorSpec], int]) -> Iterator[Slice]:
    """All elements of all tensors in order; `length` is that of a tensor's slices."""
    for spec in specs:
        step = length(spec)
        for start in range(0, spec.count, step):
            yield Slice(spec, start, min(step, spec.count - start))
