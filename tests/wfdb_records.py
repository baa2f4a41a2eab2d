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
