"""Which signal of a record is an ECG, and which of several to take.

Records name them freely: MLII, mlii, II, 'ECG lead II', DII, ECG1, 'EKG V5', along with RESP, ABP,
PLETH, 'EEG (C4-A1)'. Beats are only ever looked for in what is named as an ECG.
"""

import re
from collections.abc import Sequence

LIKE = (
    ("mlii", "ml2", "cmii"),
    ("ii", "d2", "dii"),
    ("ecg",),
    ("v5", "cm5", "cc5", "cs5", "ml5"),
    ("i", "d1", "di", "mli", "ml1"),
    ("v4", "v6", "cm4", "cm6", "d4"),
    ("avf", "iii", "d3", "diii", "mliii", "ml3"),
    ("v", "v3", "v2", "v1", "cm1", "cm2", "cm3", "cc1", "mcl1", "mcl6", "mcl"),
    ("v3r", "v4r", "v7", "v8", "v9", "vx", "vy", "vz"),
    ("avl",),
    ("avr",),
)
"""From what is most like MLII, which the set that ships is of, to what is least; 'ecg' is one of
which it is only known that it is an ECG."""
RANK = {name: rank for rank, names in enumerate(LIKE) for name in names}
LIMBS = {"1": "i", "2": "ii", "3": "iii"}
SAYS_ECG = frozenset({"ecg", "ekg", "electrocardiogram", "elektrokardiogramm"})
SAYS_LEAD = frozenset({"lead", "derivation", "ableitung"})
OTHERS = (
    "resp", "abp", "bp", "nibp", "art", "pap", "cvp", "icp", "lap", "rap", "uap", "pleth", "ppg",
    "spo2", "sao2", "so2", "eeg", "eog", "emg", "co2", "etco2", "gsr", "eda", "temp", "imp",
    "flow", "airflow", "snore", "impedance", "arterial", "acc", "gyro", "hr", "pulse", "sound",
    "pcg", "scg", "noise", "pressure", "marker", "trigger", "derived", "edr",
    "sqi", "quality", "status", "flag", "valid", "leadoff", "off", "contact", "battery", "rate",
    "rr", "event",
)  # fmt: skip
"""Beginnings of words that name what is no ECG."""
MV_PER = {
    "mv": 1.0, "millivolt": 1.0, "millivolts": 1.0, "uv": 1e-3, "μv": 1e-3, "microvolt": 1e-3,
    "microvolts": 1e-3, "v": 1e3, "volt": 1e3, "volts": 1e3, "nv": 1e-6,
}  # fmt: skip


def millivolts(unit: str | None) -> float | None:
    """What one of `unit` is in mV; None for what is no voltage."""
    return MV_PER.get((unit or "").strip().casefold())


def rank(name: str | None) -> int | None:
    """The lower, the more like lead II; None for what is not named as an ECG."""
    words = _words(name)
    ecg, lead = not SAYS_ECG.isdisjoint(words), not SAYS_LEAD.isdisjoint(words)
    rest = [word for word in words if word not in SAYS_ECG | SAYS_LEAD | {"mod", "modified"}]
    if "".join(rest) in RANK and rest != ["ecg"]:
        return RANK["".join(rest)]
    if is_other(name) or not (ecg or lead):
        return None
    if lead and len(rest) == 1 and rest[0] in LIMBS:
        return RANK[LIMBS[rest[0]]]
    named = [RANK[word] for word in rest if word in RANK]
    return min(named) if named else RANK["ecg"] if ecg else None


def is_other(name: str | None) -> bool:
    """Whether the name says that it is something else than an ECG."""
    words = re.findall(r"[a-z]+\d*", _plain(name))
    return any(_begins(word) for word in words)


def best(names: Sequence[str]) -> int | None:
    """The place of the lead to take, the first of those that are alike; None: no ECG."""
    ranks = [(found, at) for at, name in enumerate(names) if (found := rank(name)) is not None]
    return min(ranks)[1] if ranks else None


def find(wanted: str, names: Sequence[str | None]) -> int | None:
    """The place of the signal that a person means: its name, whatever the case, another name of
    the same lead, or its number from 1."""
    plain = [_squeezed(name) for name in names]
    if _squeezed(wanted) in plain:
        return plain.index(_squeezed(wanted))
    if wanted.isdecimal():
        return int(wanted) - 1 if 1 <= int(wanted) <= len(names) else None
    if _squeezed(wanted) in SAYS_ECG:
        return next((at for at, name in enumerate(names) if rank(name) == RANK["ecg"]), None)
    leads = [_lead(name) for name in names]
    return leads.index(_lead(wanted)) if _lead(wanted) and _lead(wanted) in leads else None


def named(names: Sequence[str | None]) -> list[str]:
    """Each with a name of its own: the second of two is II-2, one without a name signal-3."""
    found: list[str] = []
    for at, name in enumerate(names, 1):
        plain = (name or "").strip() or f"signal-{at}"
        found.append(plain if plain not in found else f"{plain}-{at}")
    return found


def place(lead: str, names: Sequence[str | None]) -> int | None:
    """Where the signal is that `named` calls so."""
    there = named(names)
    return there.index(lead) if lead in there else None


ALIASES = {"dii": "ii", "d2": "ii", "di": "i", "d1": "i", "diii": "iii", "d3": "iii", "ml2": "mlii"}


def _lead(name: str | None) -> str:
    """'ECG lead II', 'DII' and 'ii' are one."""
    rest = "".join(word for word in _words(name) if word not in SAYS_ECG | SAYS_LEAD)
    found = ALIASES.get(rest, rest)
    return found if found in RANK else ""


def _words(name: str | None) -> list[str]:
    """In 'ECG lead II', 'LEAD_V5' and 'ECGII' alike."""
    return re.findall(r"[a-z]+\d*|\d+", re.sub(r"(ecg|ekg|lead)", r"\1 ", _plain(name)))


def _begins(word: str) -> bool:
    short = {"bp", "hr", "art", "imp", "acc", "so2", "temp", "flow", "off", "rate", "rr"}
    return any(word == other or (other not in short and word.startswith(other)) for other in OTHERS)


def _plain(name: str | None) -> str:
    return (name or "").casefold()


def _squeezed(name: str | None) -> str:
    return re.sub(r"[\s_.-]+", "", _plain(name))
