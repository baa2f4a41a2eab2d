"""Task `ecg`: the kind of a heartbeat from one lead, in the five classes of the AAMI."""

from collections.abc import Callable, Mapping
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from flctl.errors import DataError
from flctl.learning.beats import LATER, TRAIN, UNITS_PER_MV, UNSEEN, Beats, read_beats
from flctl.learning.examples import Examples, concatenate
from flctl.learning.task import Task

HELD_OUT_SHARE = 0.2
"""Of each record's beats, the latest, where a file does not say its split."""


def ecg_net() -> nn.Module:
    """Beats in mV, shape (n, 187), to logits, shape (n, 5); 19,469 parameters.

    Each channel of each beat is normalised by itself: that takes away what differs between
    patients, and unlike batch norm it keeps no running statistics that agents with unlike
    data would pull apart (Hsieh et al. 2020, https://arxiv.org/abs/1910.00189).
    """
    return nn.Sequential(
        nn.Unflatten(1, (1, 187)),
        *_block(1, 16, kernel=15, stride=4),
        *_block(16, 24, kernel=7, stride=2),
        *_block(24, 32, kernel=5, stride=2),
        nn.Flatten(),
        nn.Linear(32 * 12, 32),
        nn.ReLU(),
        nn.Linear(32, 5),
    )


def _block(inputs: int, outputs: int, kernel: int, stride: int) -> list[nn.Module]:
    """Half, or for the first a quarter, as many samples come out as go in."""
    return [
        nn.Conv1d(inputs, outputs, kernel, stride, padding=kernel // 2),
        nn.GroupNorm(outputs, outputs),
        nn.ReLU(),
    ]


class Ecg(Task):
    name = "ecg"
    classes = ("N", "S", "V", "F", "Q")
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

    def model(self) -> nn.Module:
        return ecg_net()

    def train_data(self, path: Path | None) -> Examples:
        """Split 0; of a file without splits all but the latest fifth of each record."""
        beats = _read(path)
        examples = _select(beats, lambda b: _split_of(b) == TRAIN)
        if examples is None:
            raise DataError(f"{beats[0].where}: no beats for training: none is of split {TRAIN}")
        return examples

    def held_out(self, path: Path | None) -> Examples | None:
        """Split 1; of a file without splits the latest fifth of each record."""
        return _select(_read(path), lambda b: _split_of(b) == LATER)

    def test_parts(self, path: Path | None) -> dict[str, Examples]:
        """Later beats of the same patients, then unseen patients; without splits all beats."""
        beats = _read(path)
        parts = {
            "later": _select(beats, lambda b: _is(b, LATER)),
            "unseen": _select(beats, lambda b: _is(b, UNSEEN)),
        }
        if not any(parts.values()):
            parts = {"test": _select(beats, lambda b: np.ones(len(b.y), dtype=np.bool_))}
        return {name: part for name, part in parts.items() if part is not None}

    def inputs(self, x: Tensor, *, training: bool) -> Tensor:  # noqa: ARG002
        """Millivolts."""
        return x.to(torch.float32) / UNITS_PER_MV


def _read(path: Path | None) -> list[Beats]:
    if path is not None:
        return read_beats(path)
    with as_file(files("flctl.learning") / "data" / "ecg_demo.npz") as own:
        return read_beats(own)


def _select(beats: list[Beats], rows_of: Callable[[Beats], NDArray[np.bool_]]) -> Examples | None:
    """The chosen beats of all files; None if there are none. Raises DataError."""
    parts = []
    for file in beats:
        whole = Examples(
            torch.from_numpy(file.x),
            torch.from_numpy(file.y),
            classes=len(Ecg.classes),
            group=file.record,
            where=file.where,
        )
        rows = np.flatnonzero(rows_of(file))
        if len(rows):
            parts.append(whole.select(rows))
    if not parts:
        return None
    return concatenate(parts, parts[0].where if len(parts) == 1 else f"{len(parts)} files")


def _is(beats: Beats, split: int) -> NDArray[np.bool_]:
    """Which beats the file itself says to be of `split`."""
    return np.zeros(len(beats.y), np.bool_) if beats.split is None else beats.split == split


def _split_of(beats: Beats) -> NDArray[np.int64]:
    """The file's own split, or the latest fifth of each record held out."""
    if beats.split is not None:
        return beats.split
    split = np.full(len(beats.y), TRAIN, dtype=np.int64)
    for record in np.unique(beats.record):
        rows = np.flatnonzero(beats.record == record)
        split[rows[len(rows) - int(HELD_OUT_SHARE * len(rows)) :]] = LATER
    return split
