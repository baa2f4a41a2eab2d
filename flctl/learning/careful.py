"""Batches of examples that are read one by one. What is broken is left out, whatever its batch: an
example that cannot be read or holds NaN, that `collate` cannot take, or that does not fit the
others.

Which ones are left out depends on the data alone, not on the order of the batches.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from flctl.errors import DataError, FlctlError, is_out_of_memory, one_line
from flctl.learning.bad_rows import NAMED
from flctl.learning.examples import Batch, Examples
from flctl.learning.guard import reason
from flctl.learning.task import Task

SAMPLED = 9
"""Examples, evenly spread over the data, that say what one usually looks like."""
WHOLE, FRACTIONS = "whole numbers", "fractions"
Form: TypeAlias = Any
"""What an item consists of: shapes and kinds, nested as it is."""


class Broken(NamedTuple):
    at: int
    why: str


class OneByOne:
    """`Examples` for a loader; one that cannot be read comes as why."""

    def __init__(self, examples: Examples) -> None:
        self._examples = examples

    def __getitem__(self, index: int) -> "tuple[int, Batch] | Broken":
        try:
            x, y = self._examples[index]
        except Exception as error:
            return Broken(index, _why(error))
        if x is None:
            return Broken(index, "it is None")
        if not _is_finite(x):
            return Broken(index, "it holds NaN or infinite numbers")
        return index, (x, y)


def unread(parts: Iterable[Examples], until: float) -> dict[str, int]:
    """What an `Origin` says of those that cannot be read, of as many as are tried `until` then.
    Raises DataError where none can be read."""
    broken, tried, of = list[str](), 0, 0
    for examples in (part for part in parts if part.items is not None):
        one, of = OneByOne(examples), of + len(examples)
        for at in range(len(examples)):
            if tried and time.monotonic() > until:
                break
            tried += 1
            if isinstance(item := one[at], Broken):
                broken.append(f"{examples.name(at)}: {item.why}")
    if broken and len(broken) == of:
        raise DataError(f"no example of {of} can be read; {broken[0]}")
    first = "" if tried == of else f" (of the first {tried:,})"
    more = f" and {len(broken) - NAMED} more" if len(broken) > NAMED else ""
    named = "; ".join(one_line(each, 160) for each in broken[:NAMED])
    return {f"examples that cannot be read{first}: {named}{more}": len(broken)} if broken else {}


class Careful:
    """`collate`, which leaves out what it cannot take; None in the place of an empty batch."""

    def __init__(self, task: Task, examples: Examples) -> None:
        self._collate = task.collate
        self._examples = examples
        self._any_kind = type(task).inputs is Task.inputs  # which makes all of them float32
        self._form: Form = None
        if type(task).collate is Task.collate and examples.items is not None:
            self._form = _known(examples, "form", _usual_form)

    def __call__(self, items: "list[tuple[int, Batch] | Broken]") -> tuple[Any, list[Broken]]:
        broken = [item for item in items if isinstance(item, Broken)]
        good = []
        for item in items:
            if isinstance(item, Broken):
                continue
            if wrong := self._odd(item[1][0]):
                broken.append(Broken(item[0], wrong))
            else:
                good.append(item)
        if not good:
            return None, broken
        try:
            batch = self._collate([pair for _, pair in good])
        except Exception as error:
            _expect_memory(error)
            kept, odd = self._fitting(good)
            # What it still does not take is the task's fault, and no example's.
            return self._collate([pair for _, pair in kept]) if kept else None, broken + odd
        if len(good) == 1 and self._form is None:  # alone, it may look like a batch of its own kind
            good, odd = self._fitting(good)
            return batch if good else None, broken + odd
        return batch, broken

    def _odd(self, x: Any) -> str:
        """How it differs from what most others are, where batches are stacked as they are."""
        if self._form is None:
            return ""
        own = _form(x)
        if _fits(own, self._form, self._any_kind):
            return ""
        return f"it is {_in_words(own)}, most others are {_in_words(self._form)}"

    def _fitting(self, good: list[tuple[int, Batch]]) -> tuple[list[Any], list[Broken]]:
        """Those that fit a usual example and each other, and the rest. Where no example is usual,
        those that `collate` takes alone."""
        kept: list[tuple[int, Batch]] = []
        broken: list[Broken] = []
        # What is only tried takes nothing from the generator that the batch may draw from.
        with torch.random.fork_rng(devices=[]):
            usual = _known(self._examples, "reference", self._usual)

            def add(items: list[tuple[int, Batch]]) -> None:
                why = self._refuses([*usual, *(pair for _, pair in kept + items)])
                if not why or (not usual and not any(self._refuses([pair]) for _, pair in items)):
                    kept.extend(items)
                elif len(items) == 1:
                    # By itself it says more plainly what is wrong with it.
                    broken.append(Broken(items[0][0], self._refuses([items[0][1]]) or why))
                else:
                    middle = len(items) // 2
                    add(items[:middle])
                    add(items[middle:])

            add(good)
        return kept, broken

    def _usual(self, examples: Examples) -> list[Batch]:
        """One example of the data that fits most others; none where there is no such."""
        found = [pair for pair in _sampled(examples) if not self._refuses([pair])]
        fits = [sum(not self._refuses([one, other]) for other in found) for one in found]
        most = max(fits, default=0)
        return [found[fits.index(most)]] if 2 * most > len(found) else []

    def _refuses(self, pairs: Sequence[Batch]) -> str:
        """Why `collate` does not take them together; empty if it does."""
        try:
            self._collate(pairs)
        except Exception as error:
            return _why(error)
        return ""


def _known(examples: Examples, what: str, find: Callable[[Examples], Any]) -> Any:
    """Found once for all selections of the same items."""
    if what not in examples.usual:
        with torch.random.fork_rng(devices=[]):
            examples.usual[what] = find(examples)
    return examples.usual[what]


def _sampled(examples: Examples) -> Iterator[Batch]:
    """Those that can be read of some that are spread over all items, also those of other agents."""
    of = examples.items if examples.items is not None else examples
    for at in np.unique(np.linspace(0, len(of) - 1, SAMPLED).astype(np.int64)).tolist():
        try:
            x, y = examples.item(at) if examples.items is not None else examples[at]
        except Exception as error:
            _expect_memory(error)
            continue
        if x is not None and _is_finite(x):
            yield x, y


def _usual_form(examples: Examples) -> Form:
    """None where there is none that most have."""
    forms = [_form(x) for x, _ in _sampled(examples)]
    found, count = next(iter(Counter(forms).most_common(1)), (None, 0))
    return found if 2 * count > len(forms) else None


def _form(x: Any) -> Form:
    if isinstance(x, Tensor | np.ndarray):
        kind = "tensor" if isinstance(x, Tensor) else "array"
        return kind, tuple(x.shape), _kind(x)
    if isinstance(x, Mapping):
        return "dict", *sorted((str(name), _form(part)) for name, part in x.items())
    if isinstance(x, list | tuple):
        return "tuple", *map(_form, x)
    return "number" if isinstance(x, int | float) else type(x).__name__


def _kind(x: Any) -> str:
    if isinstance(x, Tensor):
        return FRACTIONS if x.is_floating_point() else "complex" if x.is_complex() else WHOLE
    return {"f": FRACTIONS, "i": WHOLE, "u": WHOLE, "b": WHOLE}.get(x.dtype.kind, str(x.dtype))


def _fits(own: Form, usual: Form, any_kind: bool) -> bool:
    """Whether they can be stacked; whole numbers among fractions become some."""
    if own == usual:
        return True
    if isinstance(own, str) or isinstance(usual, str) or len(own) != len(usual):
        return False
    if own[0] in ("tensor", "array"):
        can = (WHOLE, FRACTIONS) in ((own[2], usual[2]), (usual[2], own[2]) if any_kind else ())
        return bool(own[:2] == usual[:2] and can)
    return all(_fits(one, other, any_kind) for one, other in zip(own, usual, strict=True))


def _in_words(form: Form) -> str:
    if isinstance(form, str):
        return form if form == "number" else f"of type {form}"
    kind, *parts = form
    if kind in ("tensor", "array"):
        return f"{kind} {list(parts[0])} of {parts[1]}"
    if kind == "dict":
        return f"dict({', '.join(f'{name}: {_in_words(part)}' for name, part in parts)})"
    return f"({', '.join(map(_in_words, parts))})"


def _is_finite(x: Any) -> bool:
    if isinstance(x, Tensor):
        return not x.is_floating_point() or bool(x.isfinite().all())
    if isinstance(x, np.ndarray):
        return x.dtype.kind != "f" or bool(np.isfinite(x).all())
    if isinstance(x, Mapping):
        return all(map(_is_finite, x.values()))
    if isinstance(x, list | tuple):
        return all(map(_is_finite, x))
    return not isinstance(x, float) or bool(np.isfinite(x))


def _why(error: Exception) -> str:
    """Raises `error` again if the memory was not enough, which no example is to blame for."""
    _expect_memory(error)
    return one_line(str(error)) if isinstance(error, FlctlError) else reason(error)


def _expect_memory(error: Exception) -> None:
    if is_out_of_memory(error):
        raise error
