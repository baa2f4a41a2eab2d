"""Heartbeats from `.npz` files: arrays X (n × 187) and y, optional record, split, rr_prev_ms,
rr_next_ms, r_at, unit."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flctl.errors import DataError
from flctl.learning.beats import R_AT, UNIT, WINDOW, Array, Beats
from flctl.learning.beats_layout import apply, find_layout
from flctl.learning.npz import load_arrays
from flctl.learning.origin import AS_IT_IS, ReadAs
from flctl.learning.rhythm import ARRAYS, Rhythm, unknown, with_usual

NAMES = ("X", "y", "record", "split", *ARRAYS, "r_at", "unit")


def read_npz(path: Path, labelled: bool = True, read_as: ReadAs = AS_IT_IS) -> Beats:
    """Other arrays are ignored; y may be absent unless `labelled`. Raises DataError."""
    arrays = load_arrays(path, NAMES, ("X", "y") if labelled else ("X",))
    x, y = _inputs(arrays["X"], path), _labels(arrays, path)
    record, split = arrays.get("record"), arrays.get("split")
    for name, array in (("record", record), ("split", split)):
        if array is not None and array.shape != (len(x),):
            raise DataError(f"{path}: {name} has shape {list(array.shape)}, y {[len(x)]}")
    if split is not None and (split.dtype.kind not in "iu" or not np.isin(split, (0, 1, 2)).all()):
        raise DataError(f"{path}: split holds something else than 0, 1 and 2")
    if record is not None and record.dtype.kind not in "iuUS":
        raise DataError(f"{path}: record is of type {record.dtype}, not numbers or names")
    layout, r_at = None, _r_at(arrays, path) if read_as.r_at is None else read_as.r_at
    if not (_as_flctl_writes(arrays, path) and r_at is None):
        layout = find_layout(x, r_at)
        # Whole numbers are in units of 1/200 mV, unless they plainly are beats of another layout.
        if x.dtype != np.int16 or layout.r_at != R_AT or layout.offset:
            x = x.astype(np.float32)
            apply(layout, x)
        else:
            layout = None
    names = np.full(len(x), path.stem) if record is None else _names(record, path)
    return Beats(
        x=x,
        y=y,
        record=names,
        split=None if split is None else split.astype(np.int64),
        where=str(path),
        rhythm=_rhythm(arrays, names, path),
        note="" if layout is None else layout.note,
        facts=AS_OTHERS if layout is None else layout.facts,
    )


AS_OTHERS: dict[str, str | float] = {"R peak at sample": f"{R_AT}", "unit": UNIT}


def _r_at(arrays: dict[str, Array], path: Path) -> int | None:
    if (r_at := arrays.get("r_at")) is None:
        return None
    if r_at.shape or r_at.dtype.kind not in "iu" or not 0 <= r_at < WINDOW:
        raise DataError(f"{path}: r_at is not one whole number from 0 to {WINDOW - 1}")
    return int(r_at)


def _rhythm(arrays: dict[str, Array], record: NDArray[np.str_], path: Path) -> Rhythm | None:
    """None where the file does not say the intervals before and after its beats."""
    given = [arrays.get(name) for name in ARRAYS]
    for name, array in zip(ARRAYS, given, strict=True):
        if array is not None and (array.shape != record.shape or array.dtype.kind not in "iuf"):
            raise DataError(f"{path}: {name} is not one number for each of {len(record)} beats")
    before, after, usual = given
    if before is None or after is None:
        return None
    found = unknown(len(record))
    for each in np.unique(record):
        rows = np.flatnonzero(record == each)
        found[rows] = with_usual(before[rows], after[rows], None if usual is None else usual[rows])
    return found


def _as_flctl_writes(arrays: dict[str, Array], path: Path) -> bool:
    """R peaks at sample 62, in units of 1/200 mV."""
    unit = arrays.get("unit")
    if unit is not None and (unit.shape or unit.dtype.kind != "U" or str(unit) != UNIT):
        raise DataError(f"{path}: unit is not '{UNIT}'; leave it out, and it is found out")
    return unit is not None


def _names(record: Array, path: Path) -> NDArray[np.str_]:
    try:
        return record.astype(np.str_)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: record is not text in ASCII; store it as str") from error


def _inputs(x: Array, path: Path) -> Array:
    if x.ndim != 2 or x.shape[1] != WINDOW:
        raise DataError(f"{path}: X has shape {list(x.shape)}, beats have [n, {WINDOW}]")
    if x.dtype.kind not in "iuf":
        raise DataError(f"{path}: X is of type {x.dtype}, not of numbers")
    if not len(x):
        raise DataError(f"{path}: no examples")
    if x.dtype.kind == "f":
        with np.errstate(over="ignore"):
            inputs = x.astype(np.float32)
        if x.dtype.itemsize > inputs.dtype.itemsize:
            beyond = np.flatnonzero((np.isfinite(x) & ~np.isfinite(inputs)).any(axis=1))
            if beyond.size:
                raise DataError(f"{path}: example {beyond[0]} has numbers too large for float32")
        return inputs
    limits = np.iinfo(np.int16)
    if int(x.min()) < limits.min or int(x.max()) > limits.max:
        raise DataError(f"{path}: X has whole numbers beyond {limits.max}; as float they may be")
    return x.astype(np.int16, copy=False)


def _labels(arrays: dict[str, Array], path: Path) -> NDArray[np.int64] | None:
    if "y" not in arrays:
        return None
    x, y = arrays["X"], arrays["y"]
    if y.dtype.kind not in "iu":
        raise DataError(f"{path}: y is of type {y.dtype}, not of an integer type")
    if y.shape != (len(x),):
        raise DataError(f"{path}: {len(x)} beats in X but y has shape {list(y.shape)}")
    return y.astype(np.int64)
