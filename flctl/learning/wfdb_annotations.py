"""The annotations of a WFDB record: which beat is of which kind."""

import glob
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flctl.errors import DataError, NothingToUse
from flctl.learning.wfdb_files import Record, name_of, the_package, told

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
USUAL = ("atr", "ecg", "ari", "qrsc", "qrs")
"""Annotators of beats, the better first. Others have other meanings for the same symbols: the N
and A of .apn are minutes of sleep."""
DETECTORS = ("qrsc", "qrs")
"""Programs, most of which call every beat N."""
END = bytes(2)
"""End of a file of annotations."""
FEW_BEYOND = 0.05
"""Where a larger share lies outside the signal, they are of another recording."""


@dataclass(frozen=True)
class Annotations:
    annotator: str
    sample: NDArray[np.int64]
    """The R peaks of all beats at the record's own rate, in the order of time, shape (m,)."""
    symbol: NDArray[np.str_]
    """Shape (m,)."""
    left_out: dict[str, int]
    """By reason."""

    @property
    def classes_known(self) -> bool:
        """Not where a program has found the beats without judging them."""
        return self.annotator not in DETECTORS or bool((self.symbol != "N").any())


def annotations(record: Record, wanted: str | None = None) -> Annotations | None:
    """Those of `wanted`, else of the best annotator that has beats; None: there is no such file.

    Raises DataError that names the record, NothingToUse when there are files without beats.
    """
    header, found = record.header, []
    if wanted is not None and not header.with_suffix(f".{wanted}").is_file():
        there = ", ".join(annotators(header)) or "none"
        raise NothingToUse(f"{name_of(header)}: there is no {header.stem}.{wanted}; "
                           f"annotators that are there: {there}")  # fmt: skip
    names = [wanted] if wanted is not None else [
        name for name in USUAL if header.with_suffix(f".{name}").is_file()
    ]  # fmt: skip
    for name in names:
        read = _read(record, name)
        if len(read.sample):
            return read
        found.append(f"{header.stem}.{name}")
    if found:
        raise NothingToUse(f"{name_of(header)}: there are no beats in {' or '.join(found)}")
    return None


def annotators(header: Path) -> list[str]:
    """Suffixes of what may be annotations of this record."""
    files = sorted(header.parent.glob(f"{glob.escape(header.stem)}.*"))
    return [file.suffix[1:] for file in files if file.suffix not in (".hea", ".dat", ".mat", "")]


def _read(record: Record, annotator: str) -> Annotations:
    header = record.header
    path = header.with_suffix(f".{annotator}")
    name, file = name_of(header), path.name
    with told(header, f"{file} holds no WFDB annotations, or is damaged"):
        found = the_package(header).rdann(str(header.with_suffix("")), annotator)
        ending = path.read_bytes()[-2:]
    if ending != END:
        raise DataError(f"{name}: {file} is cut off: the mark at its end is missing")
    sample = np.asarray(found.sample, dtype=np.float64)
    sample *= record.rate_hz / found.fs if found.fs else record.per_frame
    symbol = np.array([s if isinstance(s, str) else "" for s in found.symbol], dtype=np.str_)
    beyond = (sample < 0) | (sample > record.length - 1)
    if beyond.sum() > max(1, FEW_BEYOND * len(sample)):
        raise DataError(
            f"{name}: {file} has an annotation at {sample[beyond][0] / record.rate_hz:.2f} s, the "
            f"signal ends at {(record.length - 1) / record.rate_hz:.2f} s, and {beyond.sum():,} of "
            f"{len(sample):,} are outside of it: are they of another recording?"
        )
    beat = np.isin(symbol, list(AAMI)) & ~beyond
    other = ~np.isin(symbol, [*AAMI, *NO_BEATS])
    at = np.round(sample[beat]).astype(np.int64)
    order = np.lexsort((symbol[beat], at))
    left_out = {
        f"annotations of no known kind in {annotator}": int((other & ~beyond).sum()),
        f"annotations in {annotator} outside of the signal": int(beyond.sum()),
    }
    return Annotations(annotator, at[order], symbol[beat][order], left_out)
