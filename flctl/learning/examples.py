"""Labelled examples in memory, checked when they are made."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from flctl.errors import DataError
from flctl.learning.origin import Origin

Indices = NDArray[np.int64]
Batch = tuple[Tensor, Tensor]


class Examples(Dataset[Batch]):
    """`x` of shape (n, …) and any type, `y` int64 of shape (n,) in [0, classes).

    `group` names for each example what must stay together (a record, a patient), so that
    a data set can be dealt by it. `where` is the file for errors.
    Raises DataError when there is nothing, or something that cannot be trained on.
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        *,
        classes: int,
        group: Sequence[str] | NDArray[np.str_] | None = None,
        where: str = "the data",
    ) -> None:
        self.x = _in_memory(x, "inputs", where)
        self.y = _whole(_in_memory(y, "labels", where), where)
        self.classes = classes
        self.group = None if group is None else np.asarray(group, dtype=np.str_)
        self.where = where
        self._check()

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> Batch:
        return self.x[index], self.y[index]

    def batch(self, indices: Sequence[int] | Indices) -> Batch:
        """Those examples as one batch: much faster than one after another."""
        rows = torch.as_tensor(indices)
        return self.x[rows], self.y[rows]

    def select(self, indices: Indices) -> "Examples":
        """A copy of the examples at `indices`, in that order. Raises DataError for none."""
        rows = torch.from_numpy(np.ascontiguousarray(indices, dtype=np.int64))
        group = None if self.group is None else self.group[indices]
        return Examples(
            self.x[rows], self.y[rows], classes=self.classes, group=group, where=self.where
        )

    def histogram(self) -> NDArray[np.int64]:
        """Examples of each class, shape (classes,)."""
        return np.bincount(self.y.numpy(), minlength=self.classes)

    def rows(self) -> set[int]:
        """A hash of each input: the same input, the same hash."""
        x = self.x.view(torch.int16) if self.x.dtype == torch.bfloat16 else self.x
        return {hash(row.tobytes()) for row in x.numpy()}

    @cached_property
    def digest(self) -> str:
        """sha256 of all inputs and labels, and of what kind they are: what training depends on,
        whatever files they are from."""
        found = hashlib.sha256()
        x = self.x.view(torch.int16) if self.x.dtype == torch.bfloat16 else self.x
        for array in (x.numpy(), self.y.numpy()):
            found.update(f"{array.dtype}{array.shape}".encode())
            found.update(np.ascontiguousarray(array).data.cast("B") if array.size else b"")
        return found.hexdigest()

    def contains(self, other: "Examples") -> bool:
        """Whether each input of `other` is one of these too."""
        return len(self) >= len(other) and other.rows() <= self.rows()

    def _check(self) -> None:
        if self.y.ndim != 1 or len(self.x) != len(self.y):
            raise DataError(
                f"{self.where}: {len(self.x)} inputs but labels of shape {list(self.y.shape)}"
            )
        if self.group is not None and self.group.shape != (len(self.y),):
            raise DataError(f"{self.where}: {len(self.y)} examples, {len(self.group)} group names")
        if not len(self.y):
            raise DataError(f"{self.where}: no examples")
        bad = torch.nonzero((self.y < 0) | (self.y >= self.classes))
        if len(bad):
            at = int(bad[0, 0])
            raise DataError(
                f"{self.where}: example {at} has label {int(self.y[at])}, "
                f"not in 0 to {self.classes - 1}"
            )
        if self.x.is_floating_point():
            finite = torch.isfinite(self.x).reshape(len(self.x), -1).all(dim=1)
            if not bool(finite.all()):
                at = int(torch.nonzero(~finite)[0, 0])
                raise DataError(f"{self.where}: example {at} holds NaN or infinite numbers")


def _in_memory(values: Tensor, what: str, where: str) -> Tensor:
    if not isinstance(values, Tensor):
        raise DataError(f"{where}: the {what} are a {type(values).__name__}, not a torch.Tensor")
    if not values.ndim:
        raise DataError(f"{where}: the {what} are a single number, not one for each example")
    if values.device.type != "cpu":
        raise DataError(
            f"{where}: the {what} are on the device '{values.device}'; keep them on the CPU: each "
            "batch is moved to where the model is"
        )
    return values


def _whole(y: Tensor, where: str) -> Tensor:
    """Labels as int64; a fraction would become another class in silence."""
    whole = y.to(torch.int64)
    if y.is_floating_point() and not torch.equal(whole.to(y.dtype), y):
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
    groups: list[NDArray[Any]] = [p.group for p in parts if p.group is not None]
    try:
        x = torch.cat([part.x for part in parts])
    except RuntimeError as error:
        raise DataError(f"{where}: files with inputs of different shapes") from error
    return Examples(
        x,
        torch.cat([part.y for part in parts]),
        classes=parts[0].classes,
        group=np.concatenate(groups) if len(groups) == len(parts) else None,
        where=where,
    )
