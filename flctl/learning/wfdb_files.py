"""One lead of a WFDB record, read by the wfdb package in pieces: a record may last for days, and
only what is cut out of it stays in memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flctl.errors import DataError, FlctlError, NothingToUse, one_line
from flctl.learning.beats import RATE_HZ, UNITS_PER_MV
from flctl.learning.resampling import resample

AT_ONCE = 2_000_000
"""Samples of all signals that wfdb reads at once; it takes some 20 bytes for each."""
PIECE_SAMPLES = 4_000_000
FILTER_S = 0.5
"""Samples that are further away do not change a sample at 125 Hz."""


@dataclass
class Section:
    """A stretch of a record that has signal files of its own; most records are one."""

    header: Path
    first: int
    """Sample of the record that it begins with."""
    length: int
    channel: int | None
    """None: it does not have the lead."""
    file: str = ""
    """File that holds the lead."""
    signals: int = 1
    """Samples of all signals in one of its frames, which are read together."""
    per_frame: int = 1
    """Samples of the lead in one of its frames."""
    mv_per: float = 1.0
    checksum: int = 0
    """Sum of all samples, modulo 65536; 0: not known."""
    read: int = 0
    """Number of samples read so far, from the first on."""
    sum: int = 0
    """Sum of those."""


@dataclass
class Record:
    header: Path
    lead: str
    unit: str
    rate_hz: float
    length: int
    """Samples at that rate."""
    sections: list[Section] = field(default_factory=list)
    per_frame: int = 1
    """Samples of the lead for each sample that annotations count."""

    @property
    def ratio(self) -> Fraction:
        """Samples at 125 Hz for each of the file."""
        return Fraction(RATE_HZ) / Fraction(self.rate_hz).limit_denominator(1000)

    @property
    def length_125(self) -> int:
        """Samples at 125 Hz."""
        return -(-self.length * self.ratio.numerator // self.ratio.denominator)

    def read(self, first: int, end: int) -> NDArray[np.float64]:
        """In mV, NaN where nothing was recorded. Raises DataError."""
        mv = np.full(end - first, np.nan)
        for section in self.sections:
            if section.channel is None:
                continue
            last = min(end, section.first + section.length)
            step = max(1, AT_ONCE // section.signals) * section.per_frame
            for a in range(max(first, section.first), last, step):
                b = min(a + step, last)
                mv[a - first : b - first] = _read(section, a - section.first, b - section.first)
        return mv


@dataclass(frozen=True)
class Piece:
    """Some of a record at 125 Hz."""

    first: int
    """Which sample at 125 Hz `units` begins with."""
    core: range
    """Those that are in no other piece; around them are some more."""
    units: NDArray[np.float64]
    """1/200 mV."""
    first_of_file: int
    """Which sample of the file `gaps` begins with."""
    gaps: NDArray[np.int64]
    """How many invalid samples come before each sample of the file."""


def pieces(record: Record, core_s: float, margin_s: float) -> Iterator[Piece]:
    """The whole record: to the last bit what resampling it at once would give.

    Raises DataError, for what is wrong with the sum of a signal at the end.
    """
    up, down = record.ratio.numerator, record.ratio.denominator
    core = max(1, round(min(core_s * record.rate_hz, PIECE_SAMPLES) / down)) * down
    margin = -(-int((margin_s + FILTER_S) * record.rate_hz) // down) * down
    any_valid = False
    for start in range(0, record.length, core):
        a, b = max(0, start - margin), min(record.length, start + core + margin)
        mv = record.read(a, b)
        invalid = np.isnan(mv)
        valid = not invalid.all()
        any_valid = any_valid or valid
        if invalid.any():
            rows = np.arange(len(mv))
            mv[invalid] = np.interp(rows[invalid], rows[~invalid], mv[~invalid]) if valid else 0
        gaps = np.concatenate(([0], np.cumsum(invalid)))
        # Whole again where the file's own unit is 1/200 mV.
        units = resample(np.round(mv * UNITS_PER_MV, 6), up, down)
        last = min(record.length_125, (start + core) // down * up)
        yield Piece(a // down * up, range(start // down * up, last), units, a, gaps)
    if not any_valid:
        raise NothingToUse(
            f"{name_of(record.header)}: its lead {record.lead} holds no valid sample"
        )
    for section in record.sections:
        _check_sum(section)


def _read(section: Section, first: int, end: int) -> NDArray[np.float64]:
    header, each = section.header, section.per_frame
    frame = first // each
    with told(header, f"{section.file} cannot be read"):
        part = the_package(header).rdrecord(
            str(header.with_suffix("")),
            sampfrom=frame,
            sampto=-(-end // each),
            channels=[section.channel],
            physical=False,
            smooth_frames=False,
        )
        wanted = slice(first - frame * each, end - frame * each)
        new = part.e_d_signal[0][wanted][max(0, section.read - first) :]
        section.sum, section.read = section.sum + int(new.sum()), max(section.read, end)
        mv: NDArray[np.float64] = part.dac(expanded=True)[0][wanted] * section.mv_per
    return mv


def _check_sum(section: Section) -> None:
    """Raises DataError."""
    whole = section.channel is not None and section.read == section.length
    if whole and section.checksum and (section.sum - section.checksum) % 65536:
        header = section.header
        raise DataError(
            f"{name_of(header)}: {section.file} is damaged: the sum of its samples is not that of "
            f"{header.name}"
        )


def name_of(header: Path) -> str:
    return f"{header.parent}: record {header.stem}"


def the_package(header: Path) -> Any:
    try:
        import wfdb
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
