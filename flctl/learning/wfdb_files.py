"""The files of a WFDB record, read by the wfdb package, and checked, which it hardly does."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flctl.errors import DataError, FlctlError, one_line
from flctl.learning.beats import LIMIT_BYTES, RATE_HZ, UNITS_PER_MV, Array

LEAD = "MLII"
"""The lead to take where there is one of this name, else the first."""
END = bytes(2)
"""Of a file of annotations."""
MV_PER = {"mV": 1.0, "uV": 1e-3, "µV": 1e-3, "V": 1e3}
BYTES_PER_SAMPLE: dict[str, float] = {
    "8": 1, "80": 1, "212": 1.5, "16": 2, "61": 2, "160": 2, "24": 3, "32": 4
}  # fmt: skip
OTHER_FORMATS = ("310", "311", "508", "516", "524")
"""Packed in other ways."""
SLOWEST_HZ, FASTEST_HZ = 50, 20_000


@dataclass(frozen=True)
class Signal:
    """One lead of a record at 125 Hz, and where it is not valid."""

    units: NDArray[np.float64]
    """1/200 mV, shape (samples at 125 Hz,)."""
    gaps: NDArray[np.int64]
    """How many invalid samples come before each sample of the file, shape (its samples + 1,)."""
    lead: str
    rate_hz: float
    """Of the file."""


def read_signal(header: Path) -> Signal:
    """Its lead MLII, or the first one. Raises DataError that names the record."""
    wfdb = the_package(header)
    from scipy.signal import resample_poly

    name, bare = name_of(header), str(header.with_suffix(""))
    if not header.exists():
        raise DataError(f"{name}: there is no {header.name}")
    with told(header, f"{header.name} is no header of a WFDB record, or a damaged one"):
        said = wfdb.rdheader(bare)
    _check(header, said)
    lead = _lead(said)
    with told(header, f"{said.file_name[lead]} cannot be read"):
        record = wfdb.rdrecord(bare, channels=[lead], physical=False)
        _check_sum(header, record)
        mv = record.dac(return_res=64)[:, 0] * MV_PER[record.units[0]]
    invalid = np.isnan(mv)
    if invalid.all():
        raise DataError(f"{name}: its lead {said.sig_name[lead]} holds no valid sample")
    if invalid.any():
        rows = np.arange(len(mv))
        mv[invalid] = np.interp(rows[invalid], rows[~invalid], mv[~invalid])
    ratio = Fraction(RATE_HZ) / Fraction(said.fs).limit_denominator(1000)
    units = np.round(mv * UNITS_PER_MV, 6)  # whole again where the file's own unit is 1/200 mV
    return Signal(
        units=resample_poly(units, ratio.numerator, ratio.denominator),
        gaps=np.concatenate(([0], np.cumsum(invalid))),
        lead=str(said.sig_name[lead]),
        rate_hz=float(said.fs),
    )


def _lead(said: Any) -> int:
    return said.sig_name.index(LEAD) if LEAD in said.sig_name else 0


def _check(header: Path, said: Any) -> None:
    """What a header says, before it is believed. Raises DataError."""
    name = name_of(header)
    if hasattr(said, "segments"):
        raise DataError(f"{name}: consists of several segments; name those")
    if not said.n_sig or not said.file_name or not said.sig_len:
        raise DataError(f"{name}: {header.name} does not say which signals there are and how long")
    if not SLOWEST_HZ <= said.fs <= FASTEST_HZ:
        raise DataError(f"{name}: {said.fs:g} samples a second are no ECG's")
    if said.n_sig * said.sig_len * 8 > LIMIT_BYTES:
        raise DataError(f"{name}: larger than {LIMIT_BYTES >> 30} GiB; cut it into several")
    if said.record_name != header.stem:
        raise DataError(f"{name}: {header.name} is the header of record {said.record_name}")
    lead = _lead(said)
    if said.units[lead] not in MV_PER:
        raise DataError(f"{name}: its lead {said.sig_name[lead]} is in {said.units[lead]}, not mV")
    for file in set(said.file_name):
        if Path(file).name != file or not (header.parent / file).is_file():
            raise DataError(f"{name}: {header.name} names {file}, which is not beside it")
        _check_size(header, said, file)


def _check_size(header: Path, said: Any, file: str) -> None:
    """A signal file that was cut off is shorter than its header says. Raises DataError."""
    own = [at for at, other in enumerate(said.file_name) if other == file]
    kind = said.fmt[own[0]]
    each = BYTES_PER_SAMPLE.get(kind)
    if each is None:
        if kind not in OTHER_FORMATS:
            raise DataError(f"{name_of(header)}: {file} is of format {kind}, which is unknown")
        return
    samples = said.sig_len * sum(said.samps_per_frame[at] or 1 for at in own)
    wanted = int(samples * each) + (said.byte_offset[own[0]] or 0)
    there = (header.parent / file).stat().st_size
    if there < wanted:
        raise DataError(
            f"{name_of(header)}: {file} is cut off: it has {there:,} bytes, {wanted:,} belong to "
            f"the {said.sig_len:,} samples of {header.name}"
        )


def _check_sum(header: Path, record: Any) -> None:
    """Against the sum that the header gives; many programs write 0. Raises DataError."""
    wanted = record.checksum[0]
    if wanted and record.samps_per_frame[0] == 1:
        there = int(record.d_signal.sum())
        if (there - wanted) % 65536:
            raise DataError(
                f"{name_of(header)}: {record.file_name[0]} is damaged: the sum of its samples is "
                f"not that of {header.name}"
            )


def read_annotations(header: Path, signal: Signal) -> list[tuple[int, str]]:
    """Sample at the record's rate and symbol of each; the symbol is empty if it has none.

    Raises DataError that names the record.
    """
    name, file = name_of(header), header.with_suffix(".atr").name
    with told(header, f"{file} holds no WFDB annotations, or is damaged"):
        found = the_package(header).rdann(str(header.with_suffix("")), "atr")
        ending = header.with_suffix(".atr").read_bytes()[-2:]
    if ending != END:
        raise DataError(f"{name}: {file} is cut off: the mark at its end is missing")
    samples: Array = np.asarray(found.sample, dtype=np.float64)
    if found.fs:
        samples = samples * (signal.rate_hz / found.fs)
    last = len(signal.gaps) - 2
    beyond = samples[(samples < 0) | (samples > last)]
    if len(beyond):
        raise DataError(
            f"{name}: {file} has an annotation at {beyond[0] / signal.rate_hz:.2f} s, the signal "
            f"ends at {last / signal.rate_hz:.2f} s"
        )
    symbols = (symbol if isinstance(symbol, str) else "" for symbol in found.symbol)
    return [(round(sample), symbol) for sample, symbol in zip(samples, symbols, strict=True)]


def name_of(header: Path) -> str:
    return f"{header.parent}: record {header.stem}"


def the_package(header: Path) -> Any:
    try:
        import wfdb
        import wfdb.processing
    except ImportError as error:
        raise DataError(
            f"{name_of(header)}: reading WFDB records needs the package '{error.name}': "
            "pip install 'flctl[wfdb]'"
        ) from error
    return wfdb


@contextmanager
def told(header: Path, what: str) -> Iterator[None]:
    """Whatever wfdb makes of a damaged file is one line: it checks little itself."""
    try:
        yield
    except FlctlError:
        raise
    except Exception as error:
        raise DataError(f"{name_of(header)}: {what} ({one_line(error, 100)})") from error
