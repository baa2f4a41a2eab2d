"""How the updates of a round become the next model.

Formulas: McMahan et al. 2017, "Communication-Efficient Learning of Deep Networks from
Decentralized Data", Algorithm 1: the new model is the mean of the agents' models,
weighted by their numbers of examples. The order of the updates is the sorted order of
the agents' names, and sums run in float64, so the outcome does not depend on who was
first.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from flctl.errors import ParametersError
from flctl.wire.parameters import (
    FLOATS,
    SLICE,
    STORAGE,
    Array,
    ParameterFile,
    ParameterWriter,
    TensorSpec,
    from_float64,
    to_float,
)

Weights = NDArray[np.float64]


def weigh(examples: Sequence[int], weighting: str, max_share: float = 1.0) -> Weights:
    """Weight of each update, summing to 1: by examples or uniform, none over `max_share`.

    What is cut off is spread over the others in proportion; where everybody would be
    over (`max_share` below 1/K), the weights are uniform.
    """
    raw = np.ones(len(examples)) if weighting == "uniform" else np.asarray(examples, np.float64)
    shares: Weights = raw / raw.sum()
    if max_share * len(shares) <= 1:
        return np.full(len(shares), 1 / len(shares))
    capped = np.zeros(len(shares), dtype=bool)
    while np.any(over := shares > max_share * (1 + 1e-12)):
        capped |= over
        rest = raw[~capped].sum()
        shares = np.where(capped, max_share, raw / rest * (1 - max_share * capped.sum()))
    return shares


def federated_average(
    updates: Sequence[ParameterFile],
    weights: Weights,
    out: ParameterWriter,
    on_slice: Callable[[], None] = lambda: None,
) -> None:
    """Write the weighted mean of `updates` (same tensors in each) to `out`.

    Memory: a few slices, however many updates and however large the tensors.
    """

    def combined(spec: TensorSpec, start: int, count: int) -> Array:
        parts = (file.read(spec, start, count) for file in updates)
        return (_mean if spec.dtype in FLOATS else _median)(spec, parts, weights)

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="combine") as pool:
        ahead: deque[Future[Array]] = deque()
        for spec, start, count in _slices(out.specs, len(updates)):
            ahead.append(pool.submit(combined, spec, start, count))
            if len(ahead) > 1:  # one slice is combined while the one before is hashed and written
                out.write(ahead.popleft().result())
                on_slice()
        for last in ahead:
            out.write(last.result())
            on_slice()


def _slices(specs: Sequence[TensorSpec], updates: int) -> Iterator[tuple[TensorSpec, int, int]]:
    """All elements of all tensors in order, as (tensor, start, count)."""
    for spec in specs:
        step = SLICE if spec.dtype in FLOATS else max(1, SLICE // updates)
        for start in range(0, spec.count, step):
            yield spec, start, min(step, spec.count - start)


def _mean(spec: TensorSpec, parts: Iterator[Array], weights: Weights) -> Array:
    """Weighted mean of float tensors in float64, rounded to the storage type at the end."""
    total: Weights | None = None
    for weight, part in zip(weights, parts, strict=True):
        numbers = to_float(part, spec.dtype)
        if total is None:
            total = np.multiply(numbers, weight, dtype=np.float64)
            term = np.empty_like(total)
        else:
            np.multiply(numbers, weight, out=term, dtype=np.float64)
            total += term
    if total is None:
        raise ParametersError(f"no update to average {spec.name} from")
    return from_float64(total, spec.dtype)


def _median(spec: TensorSpec, parts: Iterator[Array], weights: Weights) -> Array:
    """Weighted lower median of integers and booleans, element by element.

    A counter or an index is not a quantity to average: the median is always a number
    that some agent has sent, keeps 64 bits, and equals the common value if there is one.
    """
    values = np.stack([np.asarray(part) for part in parts])
    order = np.argsort(values, axis=0, kind="stable")
    reached = np.cumsum(weights[order], axis=0) >= 0.5 - 1e-12
    middle = np.take_along_axis(order, reached.argmax(axis=0)[None, ...], axis=0)
    picked: Array = np.take_along_axis(values, middle, axis=0)[0]
    return picked.astype(STORAGE[spec.dtype], copy=False)
