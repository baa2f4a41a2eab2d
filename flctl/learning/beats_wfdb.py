"""Heartbeats from WFDB records, the form in which PhysioNet publishes its databases.

A record is a header (.hea), its signals (.dat) and the annotations of a cardiologist (.atr).
The windows are cut as those of the set that ships with flctl, bit for bit.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flctl.errors import NothingToUse
from flctl.learning.beats import R_AT, RATE_HZ, UNITS_PER_MV, WINDOW, Beats
from flctl.learning.origin import AS_IT_IS, ReadAs
from flctl.learning.rhythm import rhythm_of
from flctl.learning.wfdb_annotations import AAMI, Annotations, annotations
from flctl.learning.wfdb_files import Piece, Record, name_of, pieces, told
from flctl.learning.wfdb_headers import open_record

PIECE_S, MARGIN_S = 1800.0, 2.0
"""A window reaches 1 s over the edge of its piece."""
FOUND_PIECE_S, FOUND_MARGIN_S = 3600.0, 20.0
"""XQRS learns from what comes first, so that it gets more at a time."""
NOT_WHOLE = "beats without a whole window of valid samples"
PACED, MOSTLY = ("/", "f"), 0.5
"""Paced beats and their fusions; a record with so large a share of them is of a paced patient."""
LIMITS = np.iinfo(np.int16)


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
    record: Record


def read_record(path: Path, labelled: bool = True, read_as: ReadAs = AS_IT_IS) -> Beats:
    """The beats of the record whose .hea or another file is `path`.

    Without annotations of beats, which only goes if not `labelled`, the R peaks are those that
    wfdb's XQRS detector finds. Raises DataError that names the record.
    """
    header = path.with_suffix(".hea")
    record = open_record(header, read_as.lead)
    facts: dict[str, str | float] = {
        "lead": record.lead, "rate_hz": record.rate_hz, "unit": record.unit
    }  # fmt: skip
    try:
        known = annotations(record, read_as.annotator)
    except NothingToUse:
        if labelled or read_as.annotator is not None:
            raise
        known = None
    if known is None:
        if labelled:
            raise NothingToUse(
                f"{name_of(header)}: there is no {header.stem}.atr with its annotations; "
                "others are named with --annotator"
            )
        return _found(record, facts)
    judged = known.classes_known or read_as.annotator is not None
    if labelled and not judged:
        raise NothingToUse(
            f"{name_of(header)}: {header.stem}.{known.annotator} calls every beat N, as programs "
            f"do that only find them; --annotator {known.annotator} takes it all the same"
        )
    beats = _cut_all(record, known)
    symbols = beats.symbol[beats.whole]
    facts["annotator"] = known.annotator
    if judged and np.isin(symbols, PACED).mean() > MOSTLY:
        facts["paced"] = header.stem
    return Beats(
        x=beats.x,
        y=np.array([AAMI[symbol] for symbol in symbols], dtype=np.int64) if judged else None,
        record=np.full(len(symbols), header.stem),
        split=None,
        where=str(header),
        at_s=beats.sample[beats.whole] / record.rate_hz,
        rhythm=rhythm_of(beats.sample / record.rate_hz)[beats.whole],
        note="" if judged else f"the R peaks are those of {header.stem}.{known.annotator}",
        facts=facts,
        left_out={**known.left_out, NOT_WHOLE: int((~beats.whole).sum())},
    )


def annotated(header: Path) -> Annotated:
    """The beats that the .atr of a record names. Raises DataError."""
    record = open_record(header)
    known = annotations(record, "atr")
    assert known is not None
    return _cut_all(record, known)


def _cut_all(record: Record, known: Annotations) -> Annotated:
    at = np.round(known.sample * RATE_HZ / record.rate_hz).astype(np.int64)
    whole, x = np.zeros(len(at), dtype=np.bool_), np.empty((len(at), WINDOW), np.int16)
    n = 0
    for piece in pieces(record, PIECE_S, MARGIN_S):
        first, end = np.searchsorted(at, (piece.core.start, piece.core.stop))
        whole[first:end], windows = _cut(record, piece, at[first:end])
        x[n : n + len(windows)] = windows
        n += len(windows)
    if not n:
        raise NothingToUse(
            f"{name_of(record.header)}: none of its beats ({len(at)}) has a whole window"
        )
    return Annotated(known.sample, known.symbol, whole, x[:n], record)


def _found(record: Record, facts: dict[str, str | float]) -> Beats:
    """Detected at 125 Hz: there XQRS misses fewer beats than at the rate of the file."""
    peaks, windows, kept = [], [], []
    for piece in pieces(record, FOUND_PIECE_S, FOUND_MARGIN_S):
        at = np.array(list(_peaks(record, piece)), dtype=np.int64)
        whole, x = _cut(record, piece, at)
        peaks.append(at)
        windows.append(x)
        kept.append(whole)
    at_s, whole = np.concatenate(peaks) / RATE_HZ, np.concatenate(kept)
    if not whole.any():
        raise NothingToUse(
            f"{name_of(record.header)}: no heartbeat can be found in its lead {record.lead}"
        )
    return Beats(
        x=np.concatenate(windows),
        y=None,
        record=np.full(int(whole.sum()), record.header.stem),
        split=None,
        where=str(record.header),
        at_s=at_s[whole],
        rhythm=rhythm_of(at_s)[whole],
        note="the R peaks were found by a program, for want of annotations",
        facts={**facts, "annotator": "none, R peaks found by XQRS"},
        left_out={NOT_WHOLE: int((~whole).sum())},
    )


def _peaks(record: Record, piece: Piece) -> Iterator[int]:
    """R peaks in the core of the piece."""
    if not piece.units.any():
        return
    with told(record.header, "its R peaks cannot be found"):
        from wfdb.processing import xqrs_detect

        for at in xqrs_detect(piece.units / UNITS_PER_MV, RATE_HZ, verbose=False):
            if piece.first + int(at) in piece.core:
                yield piece.first + int(at)


def _cut(
    record: Record, piece: Piece, at: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], NDArray[np.int16]]:
    """Which windows round the R peaks `at` lie within the record and touch no invalid sample, nor
    any beyond ±163 mV; and those windows, in whole units, shape (their number, 187)."""
    first, end = at - R_AT, at - R_AT + WINDOW
    inside = (first >= 0) & (end <= record.length_125)
    ratio, last = record.rate_hz / RATE_HZ, len(piece.gaps) - 1
    before, behind = (
        np.clip((edge * ratio).astype(np.int64) - piece.first_of_file, 0, last)
        for edge in (np.floor(first), np.ceil(end))
    )
    whole = inside & (piece.gaps[before] == piece.gaps[behind])
    rows = (at[whole] - piece.first)[:, None] + np.arange(-R_AT, WINDOW - R_AT)
    windows = np.round(piece.units[rows])
    fits = ((windows >= LIMITS.min) & (windows <= LIMITS.max)).all(axis=1)
    whole[whole] = fits
    return whole, windows[fits].astype(np.int16)
