"""Windows of time series: gaps found, parts told apart by time, columns standardised."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from flctl.errors import DataError
from flctl.learning.origin import Origin
from flctl.learning.series_args import SeriesArgs
from flctl.learning.series_files import Floats, SensorTable, files_of, read_table
from flctl.learning.stamps import Stamp, stamp_of

TRAIN, VALIDATION, TEST = range(3)
PARTS = (0.68, 0.80)
"""Shares of each device's time where its training part and its validation part end."""
GAP = 1.5
"""From so many usual steps on there is a gap between two samples."""
MOST_NUMBERS = 2**28
"""In all windows of a device: a gigabyte."""
NORMAL = ("0", "0.0", "normal", "ok", "none", "false", "no", "")
"""Targets that are no anomaly."""


@dataclass(frozen=True)
class DeviceSeries:
    """One device's samples, in order of time."""

    device: str
    where: str
    time: Floats
    columns: tuple[str, ...]
    inputs: Floats
    """[samples, columns]"""
    target: list[str] | None


@dataclass
class Windows:
    """Windows of all devices; the part of each is TRAIN, VALIDATION or TEST."""

    x: list[NDArray[np.float32]] = field(default_factory=list)
    """[windows, columns, samples], standardised."""
    target: list[NDArray[np.str_]] = field(default_factory=list)
    """Of the last sample; of a class that differs within a window "": for nothing."""
    device: list[NDArray[np.str_]] = field(default_factory=list)
    at_s: list[Floats] = field(default_factory=list)
    """The end of each window, in seconds from the device's first sample."""
    part: list[NDArray[np.int64]] = field(default_factory=list)
    origins: list[Origin] = field(default_factory=list)
    labelled: bool = True


_kept: dict[tuple[str, str, tuple[tuple[str, tuple[int, int]], ...]], list[DeviceSeries]] = {}


def read_lines(path: Path, args: SeriesArgs) -> list[DeviceSeries]:
    """One of each device, of all files at `path`, in order of the names. Raises DataError."""
    stamp: Stamp = stamp_of(path)
    key = (str(path), repr((args.target, args.columns, args.time, args.device)), (*stamp.items(),))
    if key not in _kept:
        first, *others = files_of(path)
        table = read_table(first, args)
        same = replace(args, columns=tuple(table.inputs))
        tables = [table, *(read_table(file, same) for file in others)]
        _kept.clear()
        _kept[key] = lines_of(tables)
    return _kept[key]


def lines_of(tables: Sequence[SensorTable]) -> list[DeviceSeries]:
    found: list[DeviceSeries] = []
    for table in tables:
        inputs = np.stack([*table.inputs.values()], axis=1)
        rows_of: dict[str, list[int]] = {}
        for row, name in enumerate(table.device or [table.file.stem] * len(table.time)):
            rows_of.setdefault(name, []).append(row)
        for device, rows in rows_of.items():
            target = None if table.target is None else [table.target[row] for row in rows]
            name, where = device or table.file.stem, str(table.file)
            found.append(
                DeviceSeries(name, where, table.time[rows], (*table.inputs,), inputs[rows], target)
            )
    return found


def cut(lines: Sequence[DeviceSeries], args: SeriesArgs, predicted: bool = False) -> Windows:
    """Windows of `lines`, none over a gap or from one part into the next. What is only `predicted`
    needs no target and has no parts. Raises DataError."""
    found = Windows(labelled=all(line.target is not None for line in lines))
    if not predicted and args.learn != "anomaly" and not found.labelled:
        where = next(line.where for line in lines if line.target is None)
        raise DataError(f"{where}: no column '{args.target}' with what is to be learnt (target)")
    for line in lines:
        _cut_one(line, args, found, predicted)
    if not any(map(len, found.x)):
        said = "; ".join(f"{o.file}: {_words(o.left_out)}" for o in found.origins[:3])
        raise DataError(
            f"{lines[0].where}: no window of {args.window} samples without a gap ({said}); "
            "choose a smaller window, or fill missing samples"
        )
    return found


def _cut_one(line: DeviceSeries, args: SeriesArgs, found: Windows, predicted: bool) -> None:
    left_out: Counter[str] = Counter()
    time, inputs, target = _in_order(line, left_out)
    step = float(np.median(np.diff(time))) if len(time) > 1 else 1.0
    there = len(time)
    inputs, time, target = _filled(time, inputs, target, step, args.fill, line.where)
    added = len(time) - there
    ends = [round(share * len(time)) for share in PARTS]
    part = np.searchsorted(ends, np.arange(len(time)), side="right")
    x = _standardised(inputs, part, args, line.where).astype(np.float32)
    jump = np.diff(time) > GAP * step
    left_out["gaps, which no window spans"] += int(jump.sum())
    edges = np.flatnonzero(jump if predicted else jump | (np.diff(part) > 0)) + 1
    ahead = args.ahead if args.learn == "number" and target is not None else 0
    starts: list[NDArray[np.int64]] = []
    for first, last in zip([0, *edges], [*edges, len(time)], strict=True):
        most = last - first - args.window - ahead
        starts.append(first + np.arange(0, most + 1, args.step, dtype=np.int64))
    begin = np.concatenate(starts)
    known = np.array(target if target is not None else [""] * len(time), dtype=np.str_)
    said = _targets(begin, known, args) if len(begin) else np.empty(0, np.str_)
    if args.learn != "anomaly" and target is not None:
        begin, said, dropped = begin[said != ""], said[said != ""], int((said == "").sum())
        left_out["windows without one target"] += dropped
    if args.learn == "anomaly" and len(begin) and not predicted:  # it learns what is usual
        odd = ~np.isin(np.char.lower(said), NORMAL) & (part[begin] != TEST)
        begin, said = begin[~odd], said[~odd]
        left_out["windows with an anomaly, not trained on"] += int(odd.sum())
    if len(begin) * args.window * x.shape[1] > MOST_NUMBERS:
        raise DataError(
            f"{line.where}: {len(begin):,} windows of {args.window} samples in "
            f"{x.shape[1]} columns are more than fits into memory; choose a larger stride"
        )
    rows = begin[:, None] + np.arange(args.window)
    found.x.append(x[rows].transpose(0, 2, 1).copy())
    found.target.append(said)
    found.device.append(np.repeat(np.array([line.device]), len(begin)))
    found.at_s.append(time[begin + args.window - 1] - (time[0] if len(time) else 0.0))
    found.part.append(part[begin])
    origin = Origin(
        file=line.device,
        examples=len(begin),
        facts={
            "interval, s": round(step, 6),
            **({"samples interpolated": added} if added else {}),
        },
        left_out={why: count for why, count in left_out.items() if count},
    )
    found.origins.append(origin)


def _in_order(
    line: DeviceSeries, left_out: Counter[str]
) -> tuple[Floats, Floats, list[str] | None]:
    """Rows with a time and all inputs, ascending."""
    whole = np.isfinite(line.time) & np.isfinite(line.inputs).all(axis=1)
    left_out["samples with a missing value"] += int((~whole).sum())
    rows = np.flatnonzero(whole)
    order = rows[np.argsort(line.time[rows], kind="stable")]
    left_out["samples sorted in by their time"] += int((order != rows).sum())
    new = np.ones(len(order), np.bool_)
    new[1:] = np.diff(line.time[order]) > 0
    left_out["samples with the time of another"] += int((~new).sum())
    order = order[new]
    target = None if line.target is None else [line.target[row] for row in order]
    return line.time[order], line.inputs[order], target


def _filled(
    time: Floats,
    inputs: Floats,
    target: list[str] | None,
    step: float,
    most: int,
    where: str,
) -> tuple[Floats, Floats, list[str] | None]:
    """With samples between in gaps of up to `most`."""
    steps = np.round(np.minimum(np.diff(time) / step, most + 2)).astype(np.int64)
    missing = steps - 1
    short = np.flatnonzero((missing > 0) & (missing <= most))
    if not len(short):
        return inputs, time, target
    count = missing[short]
    if (len(time) + int(count.sum())) * inputs.shape[1] > MOST_NUMBERS:
        raise DataError(
            f"{where}: {int(count.sum()):,} samples to interpolate are more than fits into memory; "
            "choose a smaller fill"
        )
    after = np.repeat(short, count)
    number = np.concatenate([np.arange(1, n + 1) for n in count])
    share = number / (np.repeat(count, count) + 1)
    between = time[after] + share * (time[after + 1] - time[after])
    values = inputs[after] + share[:, None] * (inputs[after + 1] - inputs[after])
    order = np.argsort(np.concatenate([time, between]), kind="stable")
    if target is not None:
        both = [*target, *(target[at] for at in after)]
        target = [both[at] for at in order]
    whole = np.concatenate([inputs, values])[order]
    return whole, np.concatenate([time, between])[order], target


def _standardised(inputs: Floats, part: NDArray[np.int64], args: SeriesArgs, where: str) -> Floats:
    """By the run's constants, else by the mean and deviation of the device's own training part."""
    columns = inputs.shape[1]
    for given in (args.center, args.spread):
        if given and len(given) != columns:
            raise DataError(f"{where}: center and spread have {len(given)} values, not {columns}")
    own = inputs[part == TRAIN] if len(inputs) else np.zeros((1, columns))
    center = np.array(args.center) if args.center else own.mean(axis=0)
    spread = np.array(args.spread) if args.spread else own.std(axis=0)
    still = spread <= 1e-9 * np.maximum(1, np.abs(center))
    found: Floats = (inputs - center) / np.where(still, 1.0, spread)
    return found.clip(-1e6, 1e6)


def _targets(
    begin: NDArray[np.int64], known: NDArray[np.str_], args: SeriesArgs
) -> NDArray[np.str_]:
    """Of each window. None is written out sample by sample, which takes eight times the memory of
    the inputs."""
    end = begin + args.window - 1
    if args.learn == "number":
        found: NDArray[np.str_] = known[(end + args.ahead).clip(max=len(known) - 1)]
        return found
    names, codes = np.unique(known, return_inverse=True)
    if args.learn == "class":
        changes = np.cumsum(np.diff(codes, prepend=codes[:1]) != 0)
        return np.where(changes[begin] == changes[end], known[end], "")
    odd = ~np.isin(np.char.lower(names), NORMAL)[codes]
    later = np.where(odd, np.arange(len(odd)), len(odd))
    first = np.minimum.accumulate(later[::-1])[::-1][begin]  # anomaly from there on
    return np.where(first <= end, known[first.clip(max=len(known) - 1)], "")


def _words(left_out: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {why}" for why, count in left_out.items()) or "too short"
