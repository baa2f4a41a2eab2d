"""Labelled examples in memory, checked when they are made.

What only counts or deals them needs no torch, which takes 180 MB.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from flctl.errors import DataError
from flctl.learning.origin import Origin

if TYPE_CHECKING:
    from torch import Tensor

Array: TypeAlias = NDArray[Any]
Indices = NDArray[np.int64]
Batch: TypeAlias = "tuple[Tensor, Tensor]"


class Examples:
    """`x` of shape (n, …) and any type, `y` int64 of shape (n,) in [0, classes): tensors, or arrays
    that become tensors when they are asked for.

    `group` names for each example what must stay together (a record, a patient), so that
    a data set can be dealt by it. `where` is the file for errors.
    Raises DataError when there is nothing, or something that cannot be trained on.
    """

    def __init__(
        self,
        x: "Tensor | Array",
        y: "Tensor | Array",
        *,
        classes: int,
        group: Sequence[str] | NDArray[np.str_] | None = None,
        where: str = "the data",
    ) -> None:
        self._x = _in_memory(x, "inputs", where)
        self._y = _whole(_in_memory(y, "labels", where), where)
        self.classes = classes
        self.group = None if group is None else np.asarray(group, dtype=np.str_)
        self.where = where
        self._check()

    def __len__(self) -> int:
        return len(self._y)

    @property
    def x(self) -> "Tensor":
        return _tensor(self._x)

    @property
    def y(self) -> "Tensor":
        return _tensor(self._y)

    @property
    def array(self) -> Array:
        """`x` as an array; of bfloat16, which NumPy does not have, the bits."""
        return _array(self._x)

    @property
    def labels(self) -> NDArray[np.int64]:
        """`y` as an array."""
        return self._y

    def __getitem__(self, index: int) -> Batch:
        return self.x[index], self.y[index]

    def batch(self, indices: Sequence[int] | Indices) -> Batch:
        """Those examples as one batch: much faster than one after another."""
        import torch

        rows = torch.as_tensor(indices)
        return self.x.index_select(0, rows), self.y.index_select(0, rows)

    def run(self, start: int, stop: int) -> Batch:
        """Those in a row: a copy too, which a task may change in place."""
        return self.x[start:stop].clone(), self.y[start:stop].clone()

    def select(self, indices: Indices) -> "Examples":
        """A copy of the examples at `indices`, in that order. Raises DataError for none."""
        rows = np.ascontiguousarray(indices, dtype=np.int64)
        group = None if self.group is None else self.group[rows]
        return Examples(
            self._x[rows], self._y[rows], classes=self.classes, group=group, where=self.where
        )

    def histogram(self) -> NDArray[np.int64]:
        """Examples of each class, shape (classes,)."""
        return np.bincount(self._y, minlength=self.classes)

    def rows(self) -> set[int]:
        """A hash of each input: the same input, the same hash."""
        return {hash(row.tobytes()) for row in self.array}

    @cached_property
    def digest(self) -> str:
        """sha256 of all inputs and labels, and of what kind they are: what training depends on,
        whatever files they are from."""
        found = hashlib.sha256()
        for array in (self.array, self._y):
            found.update(f"{array.dtype}{array.shape}".encode())
            found.update(np.ascontiguousarray(array).data.cast("B") if array.size else b"")
        return found.hexdigest()

    def contains(self, other: "Examples") -> bool:
        """Whether each input of `other` is one of these too."""
        return len(self) >= len(other) and other.rows() <= self.rows()

    def _check(self) -> None:
        x, y = self._x, self._y
        if y.ndim != 1 or len(x) != len(y):
            raise DataError(f"{self.where}: {len(x)} inputs but labels of shape {list(y.shape)}")
        if self.group is not None and self.group.shape != (len(y),):
            raise DataError(f"{self.where}: {len(y)} examples, {len(self.group)} group names")
        if not len(y):
            raise DataError(f"{self.where}: no examples")
        bad = np.flatnonzero((y < 0) | (y >= self.classes))
        if len(bad):
            raise DataError(
                f"{self.where}: example {bad[0]} has label {y[bad[0]]}, "
                f"not in 0 to {self.classes - 1}"
            )
        if _is_float(x):
            each = np.isfinite(x) if isinstance(x, np.ndarray) else x.isfinite().numpy()
            finite = each.reshape(len(x), -1).all(axis=1)
            if not finite.all():
                at = int(finite.argmin())
                raise DataError(f"{self.where}: example {at} holds NaN or infinite numbers")


def _tensor(values: "Tensor | Array") -> "Tensor":
    import torch

    return torch.from_numpy(values) if isinstance(values, np.ndarray) else values


def _array(values: "Tensor | Array") -> Array:
    """The same memory; bfloat16, which NumPy does not have, as whole numbers."""
    if isinstance(values, np.ndarray):
        return values
    import torch

    array: Array = (values.view(torch.int16) if values.dtype == torch.bfloat16 else values).numpy()
    return array


def _is_float(values: "Tensor | Array") -> bool:
    if isinstance(values, np.ndarray):
        return values.dtype.kind == "f"
    return values.is_floating_point()


def _in_memory(values: "Tensor | Array", what: str, where: str) -> "Tensor | Array":
    if isinstance(values, np.ndarray) and values.dtype.kind in "biuf":
        values = np.require(values, requirements=["C", "W"])
    else:
        from torch import Tensor

        if not isinstance(values, Tensor):
            kind = getattr(values, "dtype", type(values).__name__)
            raise DataError(f"{where}: the {what} are a {kind}, not a torch.Tensor or numbers")
    if not values.ndim:
        raise DataError(f"{where}: the {what} are a single number, not one for each example")
    if not isinstance(values, np.ndarray) and values.device.type != "cpu":
        raise DataError(
            f"{where}: the {what} are on the device '{values.device}'; keep them on the CPU: each "
            "batch is moved to where the model is"
        )
    return values


def _whole(y: "Tensor | Array", where: str) -> NDArray[np.int64]:
    """Labels as int64; a fraction would become another class in silence."""
    given = y if isinstance(y, np.ndarray) else (y.double() if _is_float(y) else y).numpy()
    with np.errstate(invalid="ignore"):
        whole = given.astype(np.int64, copy=False)
    if _is_float(y) and not np.array_equal(whole.astype(given.dtype), given):
        raise DataError(f"{where}: labels of type {y.dtype} that are no whole numbers")
    return whole


@dataclass(frozen=True)
class Cases:
    """Examples to be judged by a model, n of them."""

    examples: Examples
    labelled: bool = True
    """Whether their `y` is known, or only there to be something."""
    at_s: NDArray[np.float64] | None = None
    """When each was, in seconds from the start of its group; NaN where it is not known."""
    note: str = ""
    """What a person should know about how they came to be."""
    origins: Sequence[Origin] = ()
    """Of each file what was read, and what was left out."""


def concatenate(parts: Sequence[Examples], where: str) -> Examples:
    """One set of all `parts`, in their order; groups only if every part has them."""
    if len(parts) == 1 and parts[0].where == where:
        return parts[0]
    groups: list[Array] = [p.group for p in parts if p.group is not None]
    inputs: list[Any] = [part._x for part in parts]
    try:
        x: Any
        if all(isinstance(each, np.ndarray) for each in inputs):
            x = np.concatenate(inputs)
        else:
            import torch

            x = torch.cat([part.x for part in parts])
    except (RuntimeError, ValueError) as error:
        raise DataError(f"{where}: files with inputs of different shapes") from error
    return Examples(
        x,
        np.concatenate([part.labels for part in parts]),
        classes=parts[0].classes,
        group=np.concatenate(groups) if len(groups) == len(parts) else None,
        where=where,
    )
