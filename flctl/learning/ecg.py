"""Task `ecg`: the kind of a heartbeat from one lead, in five classes (docs/explanation/ecg.md)."""

from collections.abc import Callable, Mapping
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from flctl.errors import DataError
from flctl.learning.beat_files import read_files
from flctl.learning.beats import (
    LATER,
    R_AT,
    RATE_HZ,
    TRAIN,
    UNIT,
    UNITS_PER_MV,
    UNSEEN,
    WINDOW,
    Array,
    Beats,
)
from flctl.learning.cases import Cases
from flctl.learning.classification import Classification
from flctl.learning.examples import Examples, concatenate
from flctl.learning.origin import Origin, ReadAs
from flctl.learning.rhythm import ARRAYS, unknown
from flctl.wire.messages import TRAINING

if TYPE_CHECKING:
    from torch import Tensor, nn

HELD_OUT_SHARE = 0.2
"""Share of each record's latest beats, if a file does not say its split; where it does not
say their order either, beats from all over it: Kaggle's are sorted by class."""


class Ecg(Classification):
    name = "ecg"
    classes = ("N", "S", "V", "F", "Q")
    class_names = (
        "normal",
        "supraventricular ectopic",
        "ventricular ectopic",
        "fusion",
        "paced or unknown",
    )
    # All 48 records of the MIT-BIH database: 90,631 N, 2,781 S, 7,236 V, 803 F, 8,010 Q (Luo et al.
    # 2017, "Patient-Specific Deep Architectural Model for ECG Classification", table 1).
    frequencies = (0.8280, 0.0254, 0.0661, 0.0073, 0.0732)
    axes = ("ms from the R peak", "mV")
    primary = "macro_f1"  # nine of ten beats are normal
    options = ("lead", "annotator", "r_at")
    defaults: ClassVar[Mapping[str, Any]] = {
        "partition": "record",
        "rounds": 30,
        "epochs": 2,
        "batch_size": 64,
        "lr": 0.04,
        "optimizer": "SGD",
        "optimizer_args": {"momentum": 0.9},
        # One-patient agents pull far apart; smaller steps let the last rounds agree.
        "lr_decay": 0.955,
    }

    def model(self) -> "nn.Module":
        from flctl.learning.ecg_net import EcgNet

        return EcgNet()

    def train_data(self, path: Path | None) -> Examples:
        """Split 0; of a file without splits all but the latest fifth of each record.

        `.npz` and `.csv` files and WFDB records, one or a folder of them.
        """
        beats = self._read(path)
        examples = _select(beats, lambda b: _split_of(b) == TRAIN)
        if examples is None:
            raise DataError(f"{beats[0].where}: no beats for training: none is of split {TRAIN}")
        return examples

    def held_out(self, path: Path | None) -> Examples | None:
        """Split 1; of a file without splits the latest fifth of each record."""
        return _select(self._read(path), lambda b: _split_of(b) == LATER)

    def test_parts(self, path: Path | None) -> dict[str, Examples]:
        """Later beats of the same patients, then unseen patients; without splits all beats, and all
        that are for training where no others are."""
        beats = self._read(path)
        parts = {
            "later": _select(beats, lambda b: _is(b, LATER)),
            "unseen": _select(beats, lambda b: _is(b, UNSEEN)),
        }
        if not any(parts.values()):
            all_train = all(file.split is not None for file in beats)  # as the files say
            name = TRAINING if all_train else "test"
            parts = {name: _select(beats, lambda b: np.ones(len(b.x), dtype=np.bool_))}
        return {name: part for name, part in parts.items() if part is not None}

    def cases(self, path: Path) -> Cases:
        """All beats, in their order; their class need not be known."""
        found = read_files(path, labelled=False, read_as=self.read_as)
        beats = found.beats
        known = all(file.y is not None for file in beats)
        whole = [
            Examples(
                _stored(file),
                file.y if file.y is not None and known else _no_class(file),
                classes=len(self.classes),
                group=file.record,
                where=file.where,
            )
            for file in beats
        ]
        rows = [file.line for file in beats if file.line is not None]
        times = [np.full(len(b.x), np.nan) if b.at_s is None else b.at_s for b in beats]
        return Cases(
            concatenate(whole, str(path)),
            labelled=known,
            at_s=np.concatenate(times),
            line=np.concatenate(rows) if len(rows) == len(beats) else None,
            note="; ".join(dict.fromkeys(file.note for file in beats if file.note)),
            origins=found.origins,
        )

    def origins(self, path: Path | None) -> list[Origin]:
        """Lead, rate, unit and annotator of each file, or the layout of its rows."""
        return [] if path is None else read_files(path, read_as=self.read_as).origins

    def points(self, x: "Tensor") -> "tuple[Tensor, Tensor]":
        """Milliseconds from the R peak, and millivolts."""
        at, x = super().points(x[:WINDOW])
        return (at - R_AT) * (1000 / RATE_HZ), x.float() / UNITS_PER_MV

    def write(self, folder: Path, train: Examples | None, tests: Mapping[str, Examples]) -> None:
        """One file beats.npz, not packed: the same bytes whatever zlib is installed."""
        parts = [] if train is None else [(TRAIN, train)]
        parts += [(UNSEEN if name == "unseen" else LATER, part) for name, part in tests.items()]
        whole = concatenate([part for _, part in parts], str(folder))
        assert whole.group is not None
        arrays = {
            "X": whole.array[:, :WINDOW],
            "y": whole.labels.astype(np.uint8),
            "record": whole.group,
            "split": np.concatenate([np.full(len(p), split, dtype=np.uint8) for split, p in parts]),
            "unit": np.array(UNIT),  # or its layout would be found out again, from fewer beats
        }
        rhythm = whole.array[:, WINDOW:]
        if rhythm.any():
            arrays |= {name: rhythm[:, at].astype(np.int16) for at, name in enumerate(ARRAYS)}
        np.savez(folder / "beats.npz", allow_pickle=False, **arrays)

    def inputs(self, x: "Tensor", *, training: bool) -> "Tensor":
        """Millivolts, and the rhythm; varied when `training`."""
        from flctl.learning.ecg_net import inputs_of

        return inputs_of(x, training=training)

    def _read(self, path: Path | None) -> list[Beats]:
        if path is not None:
            return read_files(path, read_as=self.read_as).beats
        with as_file(files("flctl.learning") / "data" / "ecg_demo.npz") as own:
            return read_files(own, read_as=ReadAs(r_at=R_AT)).beats


def _select(beats: list[Beats], rows_of: Callable[[Beats], NDArray[np.bool_]]) -> Examples | None:
    """The chosen beats of all files; None if there are none. Raises DataError."""
    parts = []
    for file in beats:
        whole = Examples(
            _stored(file),
            _no_class(file) if file.y is None else file.y,
            classes=len(Ecg.classes),
            group=file.record,
            where=file.where,
        )
        rows = np.flatnonzero(rows_of(file))
        if len(rows) == len(whole):
            parts.append(whole)
        elif len(rows):
            parts.append(whole.select(rows))
    if not parts:
        return None
    return concatenate(parts, parts[0].where if len(parts) == 1 else f"{len(parts)} files")


def _stored(beats: Beats) -> Array:
    """Windows with their rhythm behind them, shape (n, 190)."""
    rhythm = unknown(len(beats.x)) if beats.rhythm is None else beats.rhythm
    return np.concatenate([beats.x, rhythm.astype(beats.x.dtype)], axis=1)


def _is(beats: Beats, split: int) -> NDArray[np.bool_]:
    """Which beats the file itself says to be of `split`."""
    return np.zeros(len(beats.x), np.bool_) if beats.split is None else beats.split == split


def _split_of(beats: Beats) -> NDArray[np.int64]:
    """The file's own split, or a fifth of each record held out."""
    if beats.split is not None:
        return beats.split
    split = np.full(len(beats.x), TRAIN, dtype=np.int64)
    for record in np.unique(beats.record):
        rows = np.flatnonzero(beats.record == record)
        held_out = int(HELD_OUT_SHARE * len(rows))
        spread = np.linspace(0, len(rows) - 1, held_out).astype(np.int64)
        split[rows[len(rows) - held_out :] if beats.in_time else rows[spread]] = LATER
    return split


def _no_class(beats: Beats) -> NDArray[np.int64]:
    """In the place of what is not known."""
    return np.zeros(len(beats.x), dtype=np.int64)
