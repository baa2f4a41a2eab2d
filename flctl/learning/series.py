"""Windows of time series: gaps found, parts told apart by time, columns standardised."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from flctl.errors import DataError
from flctl.learning.origin import Origin
from flctl.learning.series_args import SeriesArgs
from flctl.learning.series_files import Floats, SensorTable, files_of, read_table
from flctl.learning.stamps import Stamp, stamp_of
from flctl.learning.window_view import WindowView

TRAIN, VALIDATION, TEST = range(3)
PARTS = (0.68, 0.80)
"""Shares of each device's time where its training part and its validation part end."""
GAP = 1.5
"""From so many usual steps on there is a gap between two samples."""
MOST_NUMBERS = 2**30
"""In all windows of a device, which are views of its samples; each is looked at."""
NORMAL = ("0", "0.0", "normal", "ok", "none", "false", "no", "")
"""Targets that are no anomaly."""


@dataclass(frozen=True)
class DeviceSeries:
    """One device's samples."""

    device: str
    where: str
    columns: tuple[str, ...]
    time: Floats
    inputs: Floats
    """[samples, columns]"""
    target: NDArray[np.str_] | None
    line: NDArray[np.int64]
    """Line of the file that each is of."""
    left_out: Mapping[str, int]
    """What of its file was not read, as an `Origin` has it."""

    def at(self, rows: NDArray[Any]) -> "DeviceSeries":
        """Those samples, in that order."""
        target = None if self.target is None else self.target[rows]
        time, inputs, line = self.time[rows], self.inputs[rows], self.line[rows]
        return replace(self, time=time, inputs=inputs, target=target, line=line)


@dataclass
class Windows:
    """Windows of all devices; the part of each is TRAIN, VALIDATION or TEST."""

    samples: list[NDArray[np.float32]] = field(default_factory=list)
    """Of all devices, standardised, [samples, columns] …"""
    count: int = 0
    """… and how many."""
    begin: list[NDArray[np.int64]] = field(default_factory=list)
    """First sample of each window, counted over all devices."""
    target: list[NDArray[np.str_]] = field(default_factory=list)
    """Of the last sample; of a class that differs within a window "": for nothing."""
    device: list[NDArray[np.str_]] = field(default_factory=list)
    at_s: list[Floats] = field(default_factory=list)
    """The end of each window, in seconds from the device's first sample …"""
    line: list[NDArray[np.int64]] = field(default_factory=list)
    """… and the line of the file that it is in."""
    part: list[NDArray[np.int64]] = field(default_factory=list)
    origins: list[Origin] = field(default_factory=list)
    labelled: bool = True

    def view(self, length: int) -> WindowView:
        """All windows, [windows, columns, samples]."""
        self.samples = [np.concatenate(self.samples)] if self.samples[1:] else self.samples
        return WindowView(self.samples[0], np.concatenate(self.begin), length)


_kept: dict[tuple[str, str, tuple[tuple[str, tuple[int, int]], ...]], list[DeviceSeries]] = {}
_cut: dict[tuple[int, SeriesArgs, bool], tuple[Sequence[DeviceSeries], Windows]] = {}
"""The last ones, which all parts share."""


def read_lines(path: Path, args: SeriesArgs) -> list[DeviceSeries]:
    """One of each device, of all files at `path`, in order of the names. Raises DataError."""
    stamp: Stamp = stamp_of(path)
    key = (
        str(path),
        repr((args.target, args.columns, args.time, args.device, args.learn)),
        (*stamp.items(),),
    )
    if key not in _kept:
        first, *others = files_of(path)
        table = read_table(first, args)
        same = structs.replace(args, columns=table.columns)
        tables = [table, *(read_table(file, same) for file in others)]
        _kept.clear()
        _kept[key] = lines_of(tables)
    return _kept[key]


def lines_of(tables: Sequence[SensorTable]) -> list[DeviceSeries]:
    found: list[DeviceSeries] = []
    for table in tables:
        target = None if table.target is None else np.array(table.target, np.str_)
        stem, left_out = table.file.stem, table.left_out
        whole = DeviceSeries(stem, str(table.file), table.columns, table.time, table.inputs,
                             target, table.line, left_out)  # fmt: skip
        rows_of: dict[str, list[int]] = {}
        for row, name in enumerate(table.device or ()):
            rows_of.setdefault(name, []).append(row)
        for device, rows in rows_of.items():
            own = whole.at(np.array(rows))
            found.append(replace(own, device=device or stem, left_out=left_out))
            left_out = {}
        found += [] if table.device else [whole]
    return found


def cut(lines: Sequence[DeviceSeries], args: SeriesArgs, predicted: bool = False) -> Windows:
    """Windows of `lines`, none over a gap or from one part into the next. What is only `predicted`
    needs no target and has no parts. Raises DataError."""
    key = id(lines), args, predicted
    if key not in _cut:
        _cut.clear()
        _cut[key] = lines, _all_cut(lines, args, predicted)
    return _cut[key][1]


def _all_cut(lines: Sequence[DeviceSeries], args: SeriesArgs, predicted: bool) -> Windows:
    found = Windows(labelled=all(line.target is not None for line in lines))
    if not predicted and args.learn != "anomaly" and not found.labelled:
        where = next(line.where for line in lines if line.target is None)
        raise DataError(f"{where}: no column '{args.target}' with what is to be learnt (target)")
    for line in lines:
        _cut_one(line, args, found, predicted)
    if not any(map(len, found.begin)):
        said = "; ".join(f"{o.file}: {_words(o.left_out)}" for o in found.origins[:3])
        raise DataError(
            f"{lines[0].where}: no window of {args.window} samples without a gap ({said}); "
            "choose a smaller window, or fill missing samples"
        )
    return found


def _cut_one(line: DeviceSeries, args: SeriesArgs, found: Windows, predicted: bool) -> None:
    left_out = Counter(line.left_out)
    line, moved = _in_order(line, left_out)
    step = float(np.median(np.diff(line.time))) if len(line.time) > 1 else 1.0
    there = len(line.time)
    line = _filled(line, step, args.fill)
    time, target = line.time, line.target
    added = len(time) - there
    ends = [round(share * len(time)) for share in PARTS]
    part = np.searchsorted(ends, np.arange(len(time)), side="right")
    samples = _standardised(line.inputs, part, args, line.where).astype(np.float32)
    jump = np.diff(time) > GAP * step
    left_out["gaps, which no window spans"] += int(jump.sum())
    edges = np.flatnonzero(jump if predicted else jump | (np.diff(part) > 0)) + 1
    ahead = args.ahead if args.learn == "number" and target is not None else 0
    starts: list[NDArray[np.int64]] = []
    for first, last in zip([0, *edges], [*edges, len(time)], strict=True):
        most = last - first - args.window - ahead
        starts.append(first + np.arange(0, most + 1, args.step, dtype=np.int64))
    begin = np.concatenate(starts)
    known = target if target is not None else np.zeros(len(time), "U1")
    said = _targets(begin, known, args) if len(begin) else np.empty(0, np.str_)
    if args.learn != "anomaly" and target is not None:
        begin, said, dropped = begin[said != ""], said[said != ""], int((said == "").sum())
        left_out["windows without one target"] += dropped
    if args.learn == "anomaly" and len(begin) and not predicted:  # it learns what is usual
        odd = ~np.isin(np.char.lower(said), NORMAL) & (part[begin] != TEST)
        begin, said = begin[~odd], said[~odd]
        left_out["windows with an anomaly, not trained on"] += int(odd.sum())
    if len(begin) * args.window * samples.shape[1] > MOST_NUMBERS:
        raise DataError(
            f"{line.where}: {len(begin):,} windows of {args.window} x {samples.shape[1]} numbers "
            "are too many; choose a larger stride"
        )
    end = begin + args.window - 1
    found.begin.append(begin + found.count)
    found.samples.append(samples)
    found.count += len(samples)
    found.target.append(said)
    found.device.append(np.repeat(np.array([line.device]), len(begin)))
    found.at_s.append(time[end] - (time[0] if len(time) else 0.0))
    found.line.append(line.line[end])
    found.part.append(part[begin])
    origin = Origin(
        file=line.device,
        examples=len(begin),
        facts={
            "columns": ", ".join(line.columns),
            "interval, s": round(step, 6),
            **({"samples interpolated": added} if added else {}),
            **({"samples sorted by time": moved} if moved else {}),
        },
        left_out={why: count for why, count in left_out.items() if count},
    )
    found.origins.append(origin)


def _in_order(line: DeviceSeries, left_out: Counter[str]) -> tuple[DeviceSeries, int]:
    """Rows with a time and all inputs, ascending; how many stood elsewhere. Raises DataError when
    most have the time of another."""
    whole = np.isfinite(line.time) & np.isfinite(line.inputs).all(axis=1)
    left_out["samples with a missing value, or one of 1e30 or more"] += int((~whole).sum())
    rows = np.flatnonzero(whole)
    order = rows[np.argsort(line.time[rows], kind="stable")]
    new = np.ones(len(order), np.bool_)
    new[1:] = np.diff(line.time[order]) > 0
    left_out["samples with the time of another"] += (same := int((~new).sum()))
    if same > len(order) / 2:
        raise DataError(
            f"{line.where}: {same:,} of {len(order):,} samples have the time of another; if the "
            "file has several devices, name their column (--task-args device=COLUMN)"
        )
    return line.at(order[new]), int((order != rows).sum())


def _filled(line: DeviceSeries, step: float, most: int) -> DeviceSeries:
    """With samples between in gaps of up to `most`."""
    time, inputs = line.time, line.inputs
    steps = np.round(np.minimum(np.diff(time) / step, most + 2)).astype(np.int64)
    missing = steps - 1
    short = np.flatnonzero((missing > 0) & (missing <= most))
    if not len(short):
        return line
    count = missing[short]
    if (len(time) + int(count.sum())) * inputs.shape[1] > MOST_NUMBERS:
        raise DataError(
            f"{line.where}: {int(count.sum()):,} samples to interpolate are more than fits into "
            "memory; choose a smaller fill"
        )
    after = np.repeat(short, count)
    number = np.concatenate([np.arange(1, n + 1) for n in count])
    share = number / (np.repeat(count, count) + 1)
    between = time[after] + share * (time[after + 1] - time[after])
    values = inputs[after] + share[:, None] * (inputs[after + 1] - inputs[after])
    order = np.argsort(np.concatenate([time, between]), kind="stable")
    both = line.at(np.concatenate([np.arange(len(time)), after]))  # target and line: of the last
    both.time[len(time) :], both.inputs[len(time) :] = between, values
    return both.at(order)


def _standardised(inputs: Floats, part: NDArray[np.int64], args: SeriesArgs, where: str) -> Floats:
    """By the run's constants, else by the mean and deviation of the device's own training part."""
    columns = inputs.shape[1]
    for n in map(len, (args.center, args.spread)):
        if n not in (0, columns):
            raise DataError(f"{where}: center and spread are for {n} of {columns} columns")
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
    return ", ".join(f"{why} ({count:,})" for why, count in left_out.items()) or "too short"
