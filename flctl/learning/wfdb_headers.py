"""Reads and checks the headers of a WFDB record, and chooses the lead."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flctl.errors import DataError, NothingToUse
from flctl.learning import leads
from flctl.learning.beats import LIMIT_BYTES
from flctl.learning.wfdb_files import Record, Section, name_of, the_package, told

BYTES_PER_SAMPLE: dict[str, float] = {
    "8": 1, "80": 1, "212": 1.5, "16": 2, "61": 2, "160": 2, "24": 3, "32": 4
}  # fmt: skip
OTHER_FORMATS = ("310", "311", "508", "516", "524")
"""Packed in other ways."""
SLOWEST_HZ, FASTEST_HZ = 50, 20_000
HEADER_BYTES = 4 * 1024**2
_CONTROL = re.compile(rb"(?m)^(?!#)[^\n]*[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
"""In a line that is no comment: it could reach a terminal with the name of a signal."""
GAP = "~"
"""Name that stands for a segment in which nothing was recorded."""
OFTEN = 0.5
"""If segments have different signals, the best lead is taken that has at least this share of the
samples of the most frequent one."""

Part = tuple[Section, Any]
"""A stretch with signals, and what its header says."""


def open_record(header: Path, lead: str | None = None) -> Record:
    """The lead that is asked for, else the ECG that is most like MLII; never another signal.

    Raises DataError that names the record, NothingToUse when it has no such lead.
    """
    said = _header(header)
    name = name_of(header)
    if (said.sig_len or 0) * 8 > LIMIT_BYTES:
        raise DataError(f"{name}: larger than {LIMIT_BYTES >> 30} GiB; cut it into several")
    parts = list(_parts(header, said))
    chosen, unit = _choose(name, parts, lead)
    each = {part.samps_per_frame[at] or 1 for _, part in parts
            if (at := leads.place(chosen, part.sig_name)) is not None}  # fmt: skip
    if len(each) != 1:
        raise DataError(f"{name}: its lead {chosen} is not of one rate in all segments")
    per_frame = each.pop()
    rate_hz = float(said.fs) * per_frame
    if not SLOWEST_HZ <= rate_hz <= FASTEST_HZ:
        raise NothingToUse(f"{name}: {rate_hz:g} samples a second are no ECG's")
    for section, part in parts:
        section.first *= per_frame
        section.length *= per_frame
        section.per_frame = per_frame
        section.channel = leads.place(chosen, part.sig_name)
        at = section.channel
        if at is None:
            continue
        section.signals = sum(part.samps_per_frame)
        section.file = part.file_name[at]
        section.mv_per = leads.millivolts(part.units[at]) or 1.0
        if part.checksum[at]:
            section.checksum = part.checksum[at]
    sections = [section for section, _ in parts]
    return Record(header, chosen, unit, rate_hz, int(said.sig_len) * per_frame, sections, per_frame)


def segments_of(header: Path) -> list[str]:
    """Names of the records that are parts of this one. Raises DataError."""
    try:
        with header.open("rb") as file:
            said = _said(file.read(HEADER_BYTES))
    except OSError as error:
        raise DataError(f"{header}: cannot be read: {error.strerror or error}") from error
    if not said or "/" not in said[0][0]:
        return []
    return [words[0] for words in said[1:] if words[0] != GAP]


def _said(content: bytes) -> list[list[str]]:
    """The words of each line that is no comment."""
    lines = content.decode("latin-1").splitlines()
    return [line.split() for line in lines if line.strip() and not line.startswith("#")]


def _header(header: Path) -> Any:
    wfdb, name = the_package(header), name_of(header)
    if not header.exists():
        raise DataError(f"{name}: there is no {header.name}")
    if header.stat().st_size > HEADER_BYTES:
        raise DataError(f"{name}: {header.name} is larger than any header")
    damaged = f"{header.name} is no header of a WFDB record, or a damaged one"
    with told(header, damaged):
        said = wfdb.rdheader(str(header.with_suffix("")))
        control = _CONTROL.search(header.read_bytes())
    if control:
        raise DataError(f"{name}: {damaged}: it holds control characters")
    rate = _said(header.read_bytes())[0][2:3]
    if rate and not re.match(r"[\d.]", rate[0]):  # wfdb would take another one
        raise DataError(f"{name}: {damaged}: {rate[0]} is no number of samples a second")
    if said.record_name != header.stem:
        raise DataError(f"{name}: {header.name} is the header of record {said.record_name}")
    return said


def _parts(header: Path, said: Any) -> Iterator[Part]:
    """All stretches that have signals, checked. Raises DataError."""
    if not hasattr(said, "segments"):
        _check(header, said)
        yield Section(header, 0, said.sig_len, None), said
        return
    name, first = name_of(header), 0
    for segment, length in zip(said.seg_name, said.seg_len, strict=True):
        if segment != GAP and length:
            file = header.parent / f"{segment}.hea"
            if Path(segment).name != segment or not file.is_file():
                raise DataError(
                    f"{name}: {header.name} names {file.name}, which is not in the same folder"
                )
            part = _header(file)
            if hasattr(part, "segments"):
                raise DataError(f"{name}: its segment {segment} consists of segments itself")
            _check(file, part)
            if (part.fs, part.sig_len) != (said.fs, length):
                raise DataError(f"{name}: {file.name} is of another rate or length than its "
                                f"segment in {header.name}")  # fmt: skip
            yield Section(file, first, length, None), part
        first += length
    if first != said.sig_len:
        raise DataError(f"{name}: its segments have {first:,} samples, not {said.sig_len:,}")


def _choose(name: str, parts: Sequence[Part], wanted: str | None) -> tuple[str, str]:
    """Name and unit of the lead. Raises NothingToUse, which lists what there is."""
    samples: dict[str, int] = {}
    units: dict[str, str] = {}
    for section, part in parts:
        for signal, unit in zip(leads.named(part.sig_name), part.units, strict=True):
            samples[signal] = samples.get(signal, 0) + section.length
            units.setdefault(signal, unit)
    there = list(samples)
    if wanted is not None:
        at = leads.find(wanted, there)
        if at is None:
            raise NothingToUse(f"{name}: there is no lead {wanted}, but {', '.join(there)}")
        if leads.is_other(there[at]):
            raise NothingToUse(f"{name}: {there[at]} is no ECG; there are {', '.join(there)}")
        often = [there[at]]
    else:
        ecg = [signal for signal in there if leads.rank(signal) is not None]
        if not ecg:
            raise NothingToUse(
                f"{name}: no signal is named as an ECG: {', '.join(there) or 'none is there'}; "
                "if one is, name it with --lead"
            )
        most = max(samples[signal] for signal in ecg)
        often = [signal for signal in ecg if samples[signal] >= OFTEN * most]
    volts = [signal for signal in often if leads.millivolts(units[signal]) is not None]
    if not volts:
        best = often[leads.best(often) or 0]
        raise NothingToUse(f"{name}: its lead {best} is in {units[best]}, not mV")
    best = volts[leads.best(volts) or 0]
    return best, units[best]


def _check(header: Path, said: Any) -> None:
    """Raises DataError."""
    name = name_of(header)
    if not said.n_sig or not said.file_name or not said.sig_len:
        raise NothingToUse(
            f"{name}: {header.name} does not say which signals there are and how long"
        )
    if not np.isfinite([gain or 0.0 for gain in said.adc_gain]).all():
        raise DataError(f"{name}: {header.name} has a gain that is not a finite number")
    for file in set(said.file_name):
        if Path(file).name != file or not (header.parent / file).is_file():
            raise DataError(f"{name}: {header.name} names {file}, which is not in the same folder")
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
