"""Heartbeats from WFDB records, the form in which PhysioNet publishes its databases.

A record is a header (.hea), its signals (.dat) and the annotations of a cardiologist (.atr).
The windows are cut as those of the set that ships with flctl, bit for bit.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flctl.errors import DataError
from flctl.learning.beats import R_AT, RATE_HZ, UNITS_PER_MV, WINDOW, Beats
from flctl.learning.wfdb_files import (
    Signal,
    name_of,
    read_annotations,
    read_signal,
    the_package,
    told,
)

AAMI = {
    symbol: at
    for at, symbols in enumerate(("NLRBejn", "AaJS", "VEr", "F", "/fQ?"))
    for symbol in symbols
}
"""Symbol of a beat to its class N, S, V, F or Q, as de Chazal et al. 2004 have them. By
ANSI/AAMI EC57 itself the escape beats e, j and n are S, and records with paced beats, here Q, are
left out."""
NO_BEATS = frozenset('~|sT*D"=p^t+u![]@x()')
"""Symbols of what else an annotation may be: rhythm, waves, noise, comments."""


@dataclass(frozen=True)
class Annotated:
    """All beats of a record, m of them, in the order of time, and windows round n of those."""

    sample: NDArray[np.int64]
    """The R peaks at the record's own rate, shape (m,)."""
    symbol: NDArray[np.str_]
    """Shape (m,)."""
    whole: NDArray[np.bool_]
    """Which of them have a whole window of valid samples, shape (m,)."""
    x: NDArray[np.int16]
    """Shape (n, 187), n being the sum of `whole`."""
    signal: Signal


def read_record(path: Path, labelled: bool = True) -> Beats:
    """The beats of the record whose .hea, .dat or .atr is `path`.

    Without a .atr, which only goes if not `labelled`, the R peaks are those that wfdb's XQRS
    detector finds. Raises DataError that names the record.
    """
    header = path.with_suffix(".hea")
    if not path.with_suffix(".atr").exists():
        if labelled:
            raise DataError(f"{name_of(header)}: there is no {path.stem}.atr with its annotations")
        return _found(header)
    beats = annotated(header)
    symbols = beats.symbol[beats.whole]
    return Beats(
        x=beats.x,
        y=np.array([AAMI[symbol] for symbol in symbols], dtype=np.int64),
        record=np.full(len(symbols), header.stem),
        split=None,
        where=str(header),
        at_s=beats.sample[beats.whole] / beats.signal.rate_hz,
    )


def annotated(header: Path) -> Annotated:
    """The beats that the .atr of a record names. Raises DataError."""
    signal = read_signal(header)
    sample, symbol = _beats(header, signal)
    at = np.round(sample * RATE_HZ / signal.rate_hz).astype(np.int64)
    whole = _whole(signal, at)
    if not whole.any():
        raise DataError(f"{name_of(header)}: none of its {len(at)} beats has a whole window")
    return Annotated(sample, symbol, whole, _cut(signal, at[whole]), signal)


def _found(header: Path) -> Beats:
    """Detected at 125 Hz: there XQRS misses fewer beats than at the rate of the file."""
    signal = read_signal(header)
    processing = the_package(header).processing
    with told(header, "its R peaks cannot be found"):
        at = np.asarray(
            processing.xqrs_detect(signal.units / UNITS_PER_MV, RATE_HZ, verbose=False), np.int64
        )
    at = at[_whole(signal, at)]
    if not len(at):
        raise DataError(f"{name_of(header)}: no heartbeat can be found in its lead {signal.lead}")
    return Beats(
        x=_cut(signal, at),
        y=None,
        record=np.full(len(at), header.stem),
        split=None,
        where=str(header),
        at_s=at / RATE_HZ,
        note="the R peaks were found by a program, for want of annotations",
    )


def _whole(signal: Signal, at: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which windows round `at` lie within the signal and touch no invalid sample."""
    first, end = at - R_AT, at - R_AT + WINDOW
    inside = (first >= 0) & (end <= len(signal.units))
    ratio, last = signal.rate_hz / RATE_HZ, len(signal.gaps) - 1
    before, behind = (
        np.clip(edge * ratio, 0, last).astype(np.int64) for edge in (np.floor(first), np.ceil(end))
    )
    whole: NDArray[np.bool_] = inside & (signal.gaps[before] == signal.gaps[behind])
    return whole


def _cut(signal: Signal, at: NDArray[np.int64]) -> NDArray[np.int16]:
    """Windows of whole units with the R peaks `at`; shape (len(at), 187)."""
    windows = signal.units[at[:, None] + np.arange(-R_AT, WINDOW - R_AT)]
    limits = np.iinfo(np.int16)
    found: NDArray[np.int16] = np.clip(np.round(windows), limits.min, limits.max).astype(np.int16)
    return found


def _beats(header: Path, signal: Signal) -> tuple[NDArray[np.int64], NDArray[np.str_]]:
    """R peaks at the record's rate and symbols of all beats, in the order of time."""
    found = read_annotations(header, signal)
    file = header.with_suffix(".atr").name
    for sample, symbol in found:
        if symbol not in AAMI and symbol not in NO_BEATS:
            raise DataError(
                f"{name_of(header)}: {file} holds an annotation at {sample / signal.rate_hz:.2f} s "
                "of no known kind"
            )
    beats = sorted((sample, symbol) for sample, symbol in found if symbol in AAMI)
    if not beats:
        raise DataError(f"{name_of(header)}: there are no beats in {file}")
    return np.array([sample for sample, _ in beats]), np.array([symbol for _, symbol in beats])
