"""Writes small WFDB records, as PhysioNet's are, for tests that break them."""

import warnings
from pathlib import Path

import numpy as np

RATE_HZ = 360
SECONDS = 60
BEATS_S = np.arange(0.2, SECONDS, 0.8)
"""The first is too near to the start for a whole window, the last to the end."""


def beats_like(rate_hz: float) -> np.ndarray:
    """In mV: an R peak of 1 mV, 20 ms wide, and a T wave, for each beat."""
    t = np.arange(SECONDS * rate_hz) / rate_hz
    waves = ((1.0, 0.0, 0.01), (0.2, 0.25, 0.05))
    return sum(
        height * np.exp(-(((t - at - later) / width) ** 2))
        for at in BEATS_S
        for height, later, width in waves
    )


def write_record(folder: Path, name: str = "r1", symbols: str = "N", **changes: object) -> Path:
    """Lead V5 of noise and MLII of beats with these symbols, again and again; the header."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import wfdb

    folder.mkdir(exist_ok=True)
    said = {"rate_hz": RATE_HZ, "leads": ["V5", "MLII"], "unit": "mV", "scale": 1.0, **changes}
    signal = beats_like(said["rate_hz"]) * said["scale"]
    noise = np.random.default_rng(1).normal(0, 0.1 * said["scale"], len(signal))
    wfdb.wrsamp(
        name,
        fs=said["rate_hz"],
        units=[said["unit"]] * 2,
        sig_name=said["leads"],
        p_signal=np.stack([noise, signal], axis=1),
        fmt=["212", "212"] if said["scale"] == 1 else ["16", "16"],
        adc_gain=[200 / said["scale"]] * 2,
        baseline=[0, 0],
        write_dir=str(folder),
    )
    at = np.round(BEATS_S * said["rate_hz"]).astype(int)
    wfdb.wrann(
        name,
        "atr",
        sample=at,
        symbol=[symbols[i % len(symbols)] for i in range(len(at))],
        write_dir=str(folder),
    )
    return folder / f"{name}.hea"


def write_long_record(folder: Path, hours: int, annotated: bool = True) -> Path:
    """MLII and V5 at 360 Hz, packed as MIT-BIH's (format 212), a beat each 0.8 s; the header.

    One minute again and again, so that a day is written in a second.
    """
    minute = np.round(200 * beats_like(RATE_HZ)[: 57 * 360]).astype(np.int32)
    minute = np.resize(minute[72:][: 56 * 360], 56 * 360)  # whole beats, from between two of them
    noise = np.random.default_rng(1).integers(-9, 10, (2, len(minute)), dtype=np.int32)
    a, b = (minute + noise[0]) & 0xFFF, noise[1] & 0xFFF
    packed = np.stack([a & 0xFF, a >> 8 | (b >> 8) << 4, b & 0xFF], axis=1).astype(np.uint8)
    times = -(-hours * 3600 // 56)
    with (folder / "long.dat").open("wb") as file:
        for _ in range(times):
            file.write(packed.tobytes())
    lines = [f"long.dat 212 200 12 0 0 0 0 {lead}\n" for lead in ("MLII", "V5")]
    header = folder / "long.hea"
    header.write_text(f"long 2 {RATE_HZ} {times * len(minute)}\n{''.join(lines)}")
    if annotated:
        normal = (1 << 10 | 288).to_bytes(2, "little")
        (folder / "long.atr").write_bytes(normal * (times * 70 - 1) + bytes(2))
    return header
