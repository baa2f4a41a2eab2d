"""From a round's updates to the next model:

    clip each to a norm ─► select (Krum) ─► slice by slice: combine ─► server step ─► write

Memory is a few slices, however many updates there are and however large the tensors. The
order of the updates is that of the agents' names, so the outcome does not depend on who
was first.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import MappingProxyType
from typing import Protocol

import numpy as np
from msgspec import Struct

from flctl.core.strategies import krum
from flctl.core.strategies.choice import Strategy
from flctl.core.strategies.fedavg import Floats, Weights
from flctl.core.strategies.fedopt import ServerOptimizer, State
from flctl.errors import StrategyError
from flctl.wire.parameters import (
    FLOATS,
    SLICE,
    STORAGE,
    Array,
    ParameterWriter,
    TensorSpec,
    from_float64,
    to_float,
)


class Tensors(Protocol):
    """What is read of a model, an update or a server's state: flat parts of tensors."""

    def read(self, spec: TensorSpec, start: int = 0, count: int | None = None) -> Array: ...


class Slice(Struct, frozen=True):
    """Some elements of one tensor."""

    spec: TensorSpec
    start: int
    count: int

    def of(self, tensors: Tensors) -> Array:
        """As numbers, if they are stored as such; BF16 as float32."""
        return to_float(tensors.read(self.spec, self.start, self.count), self.spec.dtype)


def combine(
    strategy: Strategy,
    base: Tensors,
    updates: Sequence[Tensors],
    weights: Weights,
    out: ParameterWriter,
    *,
    buffers: frozenset[str] = frozenset(),
    state: Mapping[str, Tensors] | None = None,
    state_out: Mapping[str, ParameterWriter] = MappingProxyType({}),
    on_slice: Callable[[], None] = lambda: None,
) -> None:
    """Write the model that follows `base` to `out`.

    `updates` have the tensors of `base`, and finite numbers. `buffers` names the tensors
    that are statistics, not weights: the server's optimiser leaves them alone. `state` is
    what the last round wrote to `state_out`, one file for each name in the optimiser's
    `initial`, None before the first round. Raises StrategyError.
    """
    tensors = [spec for spec in out.specs if spec.dtype in FLOATS]
    of_state = state_specs(out.specs)
    scales = np.ones(len(updates))
    if strategy.clip_norm is not None:
        scales = _clip(strategy.clip_norm, base, updates, tensors)
    views = [
        update if scale == 1 else Clipped(base, update, scale)
        for update, scale in zip(updates, scales, strict=True)
    ]
    if strategy.selection is not None:
        selection = strategy.selection
        chosen = krum.select(_distances(views, tensors), selection.byzantine, selection.keep)
        views, weights = [views[i] for i in chosen], np.full(len(chosen), 1 / len(chosen))

    def combined(part: Slice) -> tuple[Array, State]:
        if part.spec.dtype not in FLOATS:
            return median_of_integers(part, views, weights), {}
        after = strategy.rule((part.of(view) for view in views), weights)
        if strategy.server is None:
            return from_float64(after, part.spec.dtype), {}
        kept = _state_at(part, strategy.server, state, of_state)
        if part.spec.name not in buffers:
            before = part.of(base).astype(np.float64)
            after = strategy.server.step(before, after - before, kept)
        model = from_float64(after, part.spec.dtype)
        _expect_finite(model, part.spec)
        return model, kept

    def write(ready: tuple[Array, State]) -> None:
        model, kept = ready
        out.write(model)
        for name, value in kept.items():
            state_out[name].write(value.astype(np.float32))
        on_slice()

    # One slice is combined while the one before is hashed and written.
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="combine") as pool:
        ahead: deque[Future[tuple[Array, State]]] = deque()
        for part in _slices(out.specs, len(views), strategy.streams):
            ahead.append(pool.submit(combined, part))
            if len(ahead) > 1:
                write(ahead.popleft().result())
        for last in ahead:
            write(last.result())


def _state_at(
    part: Slice,
    server: ServerOptimizer,
    state: Mapping[str, Tensors] | None,
    of_state: Mapping[TensorSpec, TensorSpec],
) -> State:
    """What the server's optimiser has kept for these elements."""
    if state is None:
        return {name: np.full(part.count, value) for name, value in server.initial.items()}
    spec = of_state[part.spec]
    return {
        name: state[name].read(spec, part.start, part.count).astype(np.float64)
        for name in server.initial
    }


def _expect_finite(model: Array, spec: TensorSpec) -> None:
    if not np.isfinite(to_float(model, spec.dtype)).all():
        raise StrategyError(
            f"the new model is not finite in tensor {spec.name}: the server's steps are too "
            "large; begin a new run with a lower server_lr"
        )


def state_specs(specs: Sequence[TensorSpec]) -> dict[TensorSpec, TensorSpec]:
    """The tensor of a server's state for each float tensor of a model in canonical order.

    Their numbers keep a state file in that order, whatever types the model has.
    """
    floats = [spec for spec in specs if spec.dtype in FLOATS]
    return {
        spec: TensorSpec(f"{number:05d} {spec.name}", "F32", spec.shape)
        for number, spec in enumerate(floats)
    }


class Clipped:
    """An update whose difference from the base is scaled down; only its float tensors."""

    def __init__(self, base: Tensors, update: Tensors, scale: float) -> None:
        self._base, self._update, self._scale = base, update, scale

    def read(self, spec: TensorSpec, start: int = 0, count: int | None = None) -> Array:
        after = self._update.read(spec, start, count)
        if spec.dtype not in FLOATS:
            return after
        before = to_float(self._base.read(spec, start, count), spec.dtype).astype(np.float64)
        return from_float64(
            before + self._scale * (to_float(after, spec.dtype) - before), spec.dtype
        )


def _clip(
    norm: float, base: Tensors, updates: Sequence[Tensors], tensors: Sequence[TensorSpec]
) -> Floats:
    """Sun et al. 2019, "Can You Really Backdoor Federated Learning?": Δ ← Δ · min(1, C/‖Δ‖₂)."""
    squares = np.zeros(len(updates))
    for part in _slices(tensors, len(updates), streams=True):
        before = part.of(base).astype(np.float64)
        for index, update in enumerate(updates):
            squares[index] += np.square(part.of(update) - before).sum()
    with np.errstate(divide="ignore"):
        return np.asarray(np.minimum(1.0, norm / np.sqrt(squares)))


def _distances(updates: Sequence[Tensors], tensors: Sequence[TensorSpec]) -> Floats:
    """Squared L2 distances between all updates, [K, K]."""
    distances = np.zeros((len(updates), len(updates)))
    for part in _slices(tensors, len(updates), streams=False):
        values = [part.of(update).astype(np.float64) for update in updates]
        for i, one in enumerate(values):
            for j in range(i):
                distances[i, j] += np.square(one - values[j]).sum()
    return np.asarray(distances + distances.T)


def _slices(specs: Sequence[TensorSpec], updates: int, streams: bool) -> Iterator[Slice]:
    """All elements of all tensors in order."""
    for spec in specs:
        step = SLICE if streams and spec.dtype in FLOATS else max(1, SLICE // updates)
        for start in range(0, spec.count, step):
            yield Slice(spec, start, min(step, spec.count - start))


def median_of_integers(part: Slice, updates: Sequence[Tensors], weights: Weights) -> Array:
    """Weighted lower median of integers and booleans, element by element.

    A counter or an index is not a quantity to average: the median is always a number
    that some agent has sent, keeps 64 bits, and equals the common value if there is one.
    """
    values = np.stack([part.of(update) for update in updates])
    order = np.argsort(values, axis=0, kind="stable")
    reached = np.cumsum(weights[order], axis=0) >= 0.5 - 1e-12
    middle = np.take_along_axis(order, reached.argmax(axis=0)[None, ...], axis=0)
    picked: Array = np.take_along_axis(values, middle, axis=0)[0]
    return picked.astype(STORAGE[part.spec.dtype], copy=False)
