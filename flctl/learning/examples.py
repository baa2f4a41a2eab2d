"""Examples with their targets, checked when they are made.

What only counts or deals them needs no torch, which takes 180 MB.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from flctl.errors import DataError
from flctl.learning.window_view import WindowView

if TYPE_CHECKING:
    from torch import Tensor
    from torch.utils.data import Dataset

Array: TypeAlias = NDArray[Any]
Indices = NDArray[np.int64]
Batch: TypeAlias = "tuple[Tensor, Tensor]"
"""Inputs and targets; the inputs are what the task's `collate` makes of them."""
TENTHS = 10


class Examples:
    """`x` of shape (n, …) and any type, tensors, or arrays that become tensors when they are asked
    for. `y` likewise: with `classes` int64 of shape (n,) in [0, classes), else numbers of shape
    (n, …), kept as float64 or int64; None where it is not known.

    `x` may also be a torch Dataset of any size, or a list of tensors or dicts, whose items, or the
    first of each if they are pairs, are read when a batch needs them; `names` are those of its
    items, files for instance: they distinguish what it holds.

    `group` names for each example what must stay together (a record, a patient), so that
    a data set can be dealt by it. `where` is the file for errors.
    Raises DataError when there is nothing, or something that cannot be trained on.
    """

    def __init__(
        self,
        x: "Tensor | Array | WindowView | Dataset[Any] | Sequence[Any]",
        y: "Tensor | Array | None" = None,
        *,
        classes: int = 0,
        group: Sequence[str] | NDArray[np.str_] | None = None,
        names: Sequence[str] | NDArray[np.str_] | None = None,
        where: str = "the data",
    ) -> None:
        given: Any = x
        self.items: Any = given if _is_dataset(x) else None
        """The Dataset; None where the inputs are in memory."""
        self.broken: dict[int, str] = {}
        """Which ones could not be read so far, and why."""
        self.names = None if names is None else np.asarray(names, dtype=np.str_)
        numbers = np.arange(0 if self.items is None else len(self.items))
        self._x = _in_memory(given if self.items is None else numbers, "inputs", where)
        self.labelled = y is not None
        known = np.zeros(len(self._x), np.int64) if y is None else _in_memory(y, "targets", where)
        self._y: Array = _whole(known, where) if classes else _numbers(known)
        self.classes = classes
        self.group = None if group is None else np.asarray(group, dtype=np.str_)
        self.where = where
        self.usual: dict[str, Any] = {}
        """What most of the items look like, once it was needed; selections of them share it."""
        self.digests: list[str] = []
        """The digest, once it is known; copies of the same examples may share it."""
        self._check()

    def __len__(self) -> int:
        return len(self._y)

    @property
    def x(self) -> "Tensor":
        """The inputs, as a tensor."""
        return _tensor(self._x)

    @property
    def y(self) -> "Tensor":
        """The targets, as a tensor."""
        return _tensor(self._y)

    @property
    def array(self) -> Array:
        """`x` as an array, of a Dataset numbers; of bfloat16, which NumPy does not have, the
        bits."""
        return _array(self._x)

    @property
    def nbytes(self) -> int:
        """Memory of the inputs."""
        return int(self._x.nbytes)

    @property
    def targets(self) -> Array:
        """`y` as an array."""
        return self._y

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """What is dealt evenly, and stays together in a partition by label, shape (n,): the class;
        of numbers the tenth that the first one is in, of several labels their combination."""
        y = self._y
        if self.classes:
            return y
        if y.ndim > 1 and y.dtype.kind == "i":
            _, found = np.unique(y.reshape(len(y), -1), axis=0, return_inverse=True)
            return found.reshape(-1)
        first = y.reshape(len(y), -1)[:, 0]
        edges = np.unique(np.quantile(first, np.arange(1, TENTHS) / TENTHS))
        return np.searchsorted(edges, first, side="right").astype(np.int64)

    def __getitem__(self, index: int) -> Batch:
        if self.items is None:
            return _tensor(self._x[index : index + 1])[0], self.y[index]
        return self.item(int(self._x[index]))[0], self.y[index]

    def item(self, number: int) -> Batch:
        """One of all `items`, of which these are some, with any target."""
        item = self.items[number]
        return item[0] if isinstance(item, tuple) and len(item) == 2 else item, self.y[0]

    def name(self, index: int) -> str:
        """Name of one example, for people."""
        number = f"example {index} of {self.where}"
        return number if self.names is None else f"{self.names[index]} ({number})"

    def batch(self, indices: Sequence[int] | Indices) -> Batch:
        """Those examples as one batch: much faster than one after another."""
        import torch

        rows = torch.as_tensor(indices)
        y = self.y.index_select(0, rows)
        if isinstance(self._x, WindowView):
            return _tensor(self._x[rows.numpy()]), y
        return self.x.index_select(0, rows), y

    def run(self, start: int, stop: int) -> Batch:
        """Those in a row: a copy too, which a task may change in place."""
        return _tensor(self._x[start:stop]).clone(), self.y[start:stop].clone()

    def select(self, indices: Indices) -> "Examples":
        """A copy of the examples at `indices`, in that order. Raises DataError for none."""
        rows = np.ascontiguousarray(indices, dtype=np.int64)
        if not len(rows):
            raise DataError(f"{self.where}: no examples")
        chosen = copy(self)
        chosen._x, chosen._y, chosen.broken = self._x[rows], self._y[rows], {}
        chosen.group = None if self.group is None else self.group[rows]
        chosen.names = None if self.names is None else self.names[rows]
        chosen.digests = []
        chosen.usual = {} if self.items is None else self.usual
        chosen.__dict__.pop("labels", None)
        return chosen

    def histogram(self) -> NDArray[np.int64]:
        """Examples of each class, shape (classes,)."""
        return np.bincount(self.labels, minlength=self.classes)

    def rows(self) -> set[int]:
        """A hash of each input: the same input, the same hash. Of a Dataset, of the name."""
        if self.items is not None:
            known = self.array if self.names is None else self.names
            return {hash((self.names is None and id(self.items), each)) for each in known.tolist()}
        return {hash(row.tobytes()) for part in _parts(self._x) for row in part}

    @property
    def digest(self) -> str:
        """sha256 of all inputs and targets, and of what kind they are: what training depends on,
        whatever files they are from."""
        if not self.digests:
            self.digests.append(self._hashed())
        return self.digests[0]

    def _hashed(self) -> str:
        found = hashlib.sha256()
        names = () if self.names is None else (np.strings.encode(self.names, "utf-8"),)
        inputs = () if names and self.items is not None else (self._x,)  # numbers of items
        for values in (*inputs, self._y, *names):
            parts = _parts(values)
            for at, part in enumerate(parts):
                found.update(b"" if at else f"{part.dtype}{(*values.shape,)}".encode())
                found.update(np.ascontiguousarray(part).data.cast("B") if part.size else b"")
        return found.hexdigest()

    def contains(self, other: "Examples") -> bool:
        """Whether each input of `other` is one of these too."""
        return len(self) >= len(other) and other.rows() <= self.rows()

    def _check(self) -> None:
        x, y = self._x, self._y
        if (self.classes and y.ndim != 1) or len(x) != len(y):
            what = "labels" if self.classes else "targets"
            raise DataError(f"{self.where}: {len(x)} inputs but {what} of shape {list(y.shape)}")
        if self.group is not None and self.group.shape != (len(y),):
            raise DataError(f"{self.where}: {len(y)} examples, {len(self.group)} group names")
        if self.names is not None and self.names.shape != (len(y),):
            raise DataError(f"{self.where}: {len(y)} examples, {len(self.names)} names")
        if not len(y):
            raise DataError(f"{self.where}: no examples")
        bad = np.flatnonzero((y < 0) | (y >= self.classes)) if self.classes else np.empty(0)
        if len(bad):
            at = int(bad[0])
            raise DataError(
                f"{self.where}: example {at} has label {y[at]}, not in 0 to {self.classes - 1}"
            )
        for values, what in ((x, "holds"), (y, "has a target with")):
            if isinstance(values, WindowView):
                if not np.isfinite(values.samples).all():
                    raise DataError(f"{self.where}: holds NaN or infinite numbers")
            elif _is_float(values):
                finite = _finite(values).reshape(len(values), -1).all(axis=1)
                if not finite.all():
                    at = int(finite.argmin())
                    raise DataError(f"{self.where}: example {at} {what} NaN or infinite numbers")


def _is_dataset(x: object) -> bool:
    if hasattr(x, "__array__") or not (hasattr(x, "__getitem__") and hasattr(x, "__len__")):
        return False
    from torch import Tensor

    plain = isinstance(x, list | tuple) and not isinstance(next(iter(x), None), Tensor | Mapping)
    return not (plain or isinstance(x, Tensor))


def _finite(values: "Tensor | Array") -> Array:
    return np.isfinite(values) if isinstance(values, np.ndarray) else values.isfinite().numpy()


def _parts(values: "Tensor | Array | WindowView") -> Iterable[Array]:
    return values.parts() if isinstance(values, WindowView) else (_array(values),)


def _tensor(values: "Tensor | Array | WindowView") -> "Tensor":
    import torch

    given = np.asarray(values) if isinstance(values, WindowView) else values
    return torch.from_numpy(given) if isinstance(given, np.ndarray) else given


def _array(values: "Tensor | Array | WindowView") -> Array:
    """`values` without a copy; bfloat16, which NumPy does not have, as whole numbers."""
    if isinstance(values, np.ndarray | WindowView):
        return np.asarray(values)
    import torch

    array: Array = (values.view(torch.int16) if values.dtype == torch.bfloat16 else values).numpy()
    return array


def _is_float(values: "Tensor | Array") -> bool:
    if isinstance(values, np.ndarray):
        return values.dtype.kind == "f"
    return values.is_floating_point()


def _in_memory(values: Any, what: str, where: str) -> Any:
    if isinstance(values, WindowView):
        return values
    if type(values).__module__.startswith("pandas."):
        values = np.asarray(values)
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


def _numbers(y: "Tensor | Array") -> Array:
    """Targets that are no classes, in the widest type: float32 is 0.06 wide at 10^6."""
    given: Array = y if isinstance(y, np.ndarray) else (y.double() if _is_float(y) else y).numpy()
    return given.astype(np.float64 if given.dtype.kind == "f" else np.int64, copy=False)


def concatenate(parts: Sequence[Examples], where: str) -> Examples:
    """One set of all `parts`, in their order; groups only if every part has them."""
    if len(parts) == 1 and parts[0].where == where:
        return parts[0]
    names: list[Array] = [p.names for p in parts if p.names is not None]
    groups: list[Array] = [p.group for p in parts if p.group is not None]
    inputs: list[Any] = [part._x for part in parts]
    try:
        x: Any
        if any(part.items is not None for part in parts):
            from torch.utils.data import ConcatDataset, Subset

            x = ConcatDataset([Subset(part.items, part._x.tolist()) for part in parts])
        elif all(isinstance(each, np.ndarray) for each in inputs):
            x = np.concatenate(inputs)
        else:
            import torch

            x = torch.cat([part.x for part in parts])
    except (RuntimeError, ValueError) as error:
        raise DataError(f"{where}: files with inputs of different shapes") from error
    return Examples(
        x,
        np.concatenate([part.targets for part in parts])
        if all(p.labelled for p in parts)
        else None,
        classes=parts[0].classes,
        group=np.concatenate(groups) if len(groups) == len(parts) else None,
        names=np.concatenate(names) if len(names) == len(parts) else None,
        where=where,
    )
