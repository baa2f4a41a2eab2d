"""From a round's updates to the next model:

    clip each to a norm ─► select (Krum) ─► slice by slice: combine ─► server step ─► write

Memory is a few slices, however many updates there are and however large the tensors. The
order of the updates is that of the agents' names, so the outcome does not depend on who
was first.
"""

import sys
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from flctl.core.strategies.averaging import Floats, Weights
from flctl.core.strategies.distances import squared_distances
from flctl.core.strategies.robust import median
from flctl.core.strategies.slices import Slice, slices
from flctl.core.strategies.strategy import State, Strategy
from flctl.errors import FlctlError, StrategyError, one_line
from flctl.wire.parameters import (
    FLOATS,
    SLICE,
    STORAGE,
    Array,
    ParameterWriter,
    Tensors,
    TensorSpec,
    from_float64,
    to_float,
)

_pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="combine")
"""One thread for all rounds: the slices of a new one each time would stay in memory of its own."""


def combine(
    strategy: Strategy,
    base: Tensors,
    updates: Sequence[Tensors],
    weights: Weights,
    out: ParameterWriter,
    *,
    clip_norm: float | None = None,
    buffers: frozenset[str] = frozenset(),
    state: Mapping[str, Tensors] | None = None,
    state_out: Mapping[str, ParameterWriter] = MappingProxyType({}),
    on_slice: Callable[[], None] = lambda: None,
) -> None:
    """Write the model that follows `base` to `out`.

    `updates` have the tensors of `base`, and finite numbers. `buffers` names the tensors
    that are statistics, not weights: clipping, distances and the server's optimiser leave
    them alone. `state` is what the last round wrote to `state_out`, one file for each name in
    the strategy's `initial`, None before the first round. Raises StrategyError.
    """
    learned = [s for s in out.specs if s.dtype in FLOATS and s.name not in buffers]
    of_state = state_specs(out.specs)
    scales = np.ones(len(updates))
    if clip_norm is not None:
        scales = _clip(clip_norm, base, updates, learned)
    views = [
        update if scale == 1 else Clipped(base, update, scale, frozenset(learned))
        for update, scale in zip(updates, scales, strict=True)
    ]
    defends = strategy.robust or clip_norm is not None
    votes = votes_of(weights, defends)
    if strategy.chooses:
        chosen = _call(strategy, "choose", squared_distances(base, views, learned))
        views, weights = [views[i] for i in chosen], np.full(len(chosen), 1 / len(chosen))

    # Neither norms nor distances see the statistics: where they are the defence, statistics
    # and integers are the median of all updates, which no single one can move far.
    median_of_statistics = defends and not strategy.ranks

    def length(spec: TensorSpec) -> int:
        ranks = strategy.ranks or (spec.name in buffers and median_of_statistics)
        return SLICE if spec.dtype in FLOATS and not ranks else max(1, SLICE // len(updates))

    def combined(part: Slice) -> tuple[Array, State]:
        if part.spec.dtype not in FLOATS:
            return median_of_integers(part, updates, votes), {}
        if part.spec.name in buffers and not np.isfinite(part.of(base)).all():
            # A mask or the like: no update counts in which it is another.
            same = base.read(part.spec, part.start, part.count)
            return same, _state_at(part, strategy.initial, state, of_state)
        if part.spec.name in buffers and median_of_statistics:
            after = median(part.of(update) for update in updates)
        else:
            parts = (part.of(view) for view in views)
            after = _numbers(strategy, "combine", part.count, parts, weights)
        kept = _state_at(part, strategy.initial, state, of_state) if strategy.steps else {}
        if strategy.steps and part.spec.name not in buffers:
            before = part.of(base).astype(np.float64)
            after = _numbers(strategy, "step", part.count, before, after - before, kept)
            _expect_state(kept, part.count, strategy)
        model = from_float64(after, part.spec.dtype)
        _expect_finite(model, part.spec, strategy)
        return model, kept

    def write(ready: tuple[Array, State]) -> None:
        model, kept = ready
        out.write(model)
        for name, value in kept.items():
            state_out[name].write(value.astype(np.float32))
        on_slice()

    if sum(spec.count for spec in out.specs) <= SLICE:  # a thread takes longer than a small model
        for part in slices(out.specs, length):
            write(combined(part))
        return
    # One slice is combined while the one before is hashed and written.
    ahead: deque[Future[tuple[Array, State]]] = deque()
    try:
        for part in slices(out.specs, length):
            ahead.append(_pool.submit(combined, part))
            if len(ahead) > 1:
                write(ahead.popleft().result())
        while ahead:
            write(ahead.popleft().result())
    finally:
        wait(ahead)  # it reads the files of the updates


def _state_at(
    part: Slice,
    initial: Mapping[str, float],
    state: Mapping[str, Tensors] | None,
    of_state: Mapping[TensorSpec, TensorSpec],
) -> State:
    """The strategy's state for these elements."""
    if state is None:
        return {name: np.full(part.count, value) for name, value in initial.items()}
    spec = of_state[part.spec]
    return {
        name: state[name].read(spec, part.start, part.count).astype(np.float64) for name in initial
    }


def _call(strategy: Strategy, method: str, *args: Any) -> Any:
    """Its method; what goes wrong in the code of another package is a StrategyError."""
    try:
        return getattr(strategy, method)(*args)
    except FlctlError:
        raise
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = getattr(sys.modules.get(type(strategy).__module__), "__file__", None)
        at = ([each for each in frames if each.filename == own] or frames)[-1]
        what = one_line(f"{type(error).__name__}: {error}")
        what = f"{what} ({Path(at.filename).name}, line {at.lineno})"
        raise _wrong(strategy, method, what) from error


def _numbers(strategy: Strategy, method: str, count: int, *args: Any) -> Floats:
    """What its method returns, if it is as many numbers."""
    found = _call(strategy, method, *args)
    _expect_numbers(found, count, strategy, method, "it returns")
    return np.asarray(found)


def _expect_numbers(found: Any, count: int, strategy: Strategy, method: str, what: str) -> None:
    is_array = isinstance(found, np.ndarray)
    if is_array and found.shape == (count,) and found.dtype.kind in "fiu":
        return
    kind = f"{found.dtype} of shape {found.shape}" if is_array else f"a {type(found).__name__}"
    raise _wrong(strategy, method, f"{what} {kind}, not an array of {count} numbers")


def _expect_state(kept: State, count: int, strategy: Strategy) -> None:
    if differ := sorted(kept.keys() ^ strategy.initial.keys()):
        raise _wrong(strategy, "step", f"its state and initial differ in {', '.join(differ)}")
    for name, value in kept.items():
        _expect_numbers(value, count, strategy, "step", f"state['{name}'] is")


def _wrong(strategy: Strategy, method: str, what: str) -> StrategyError:
    return StrategyError(f"strategy {type(strategy).__name__}, {method}: {what}")


def _expect_finite(model: Array, spec: TensorSpec, strategy: Strategy) -> None:
    if not np.isfinite(to_float(model, spec.dtype)).all():
        raise StrategyError(
            f"strategy {type(strategy).__name__}: the new model is not finite in tensor "
            f"{spec.name}" + ("; begin a new run with a lower server_lr" if strategy.steps else "")
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
    """An update whose difference from the base is scaled down in the tensors `learned`."""

    def __init__(
        self, base: Tensors, update: Tensors, scale: float, learned: frozenset[TensorSpec]
    ) -> None:
        self._base, self._update, self._scale = base, update, scale
        self._learned = learned

    def read(self, spec: TensorSpec, start: int = 0, count: int | None = None) -> Array:
        after = self._update.read(spec, start, count)
        if spec not in self._learned:
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
    for part in slices(tensors, lambda _: SLICE):
        before = part.of(base).astype(np.float64)
        for index, update in enumerate(updates):
            squares[index] += np.square(part.of(update) - before).sum()
    with np.errstate(divide="ignore"):
        return np.asarray(np.minimum(1.0, norm / np.sqrt(squares)))


def votes_of(weights: Weights, defends: bool) -> Weights:
    """How much each update counts where one of the numbers sent is chosen.

    As much as it weighs; but all the same where the strategy defends against hostile updates,
    or where one of three or more weighs half of all: a claim of examples must not decide alone.
    """
    alone = len(weights) > 2 and weights.max() >= 0.5 - 1e-9
    return np.full(len(weights), 1 / len(weights)) if defends or alone else weights


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
