"""Task `doors`: what happened to a door, from a trace of its accelerometer of any length."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from flctl import Classification, DataError, Examples


class Traces(nn.Module):
    """Traces padded with zeros, shape (n, samples), and their lengths, to logits."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(1, 16, 5, padding=2), nn.ReLU(), nn.Conv1d(16, 16, 5, padding=2), nn.ReLU()
        )
        self.last = nn.Linear(32, classes)

    def forward(self, values: Tensor, lengths: Tensor) -> Tensor:
        found = self.layers(values[:, None])
        real = torch.arange(values.shape[1], device=values.device) < lengths[:, None]
        found = found * real[:, None]  # what is padding counts for nothing
        mean = found.sum(dim=2) / lengths[:, None]
        return self.last(torch.cat([mean, found.amax(dim=2)], dim=1))


class Doors(Classification):
    name = "doors"
    classes = ("knock", "open", "slam")
    defaults = {"rounds": 20, "batch_size": 16, "lr": 0.01, "optimizer": "Adam"}

    def model(self) -> nn.Module:
        return Traces(len(self.classes))

    def train_data(self, path: Path | None) -> Examples:
        return self._read(path, "train")

    def held_out(self, path: Path | None) -> Examples:
        return self._read(path, "test")

    def collate(self, examples: Sequence[tuple[Any, Tensor]]) -> tuple[Any, Tensor]:
        """The traces of a batch with zeros after them, and how long each is without."""
        x = [each for each, _ in examples]
        lengths = torch.tensor([len(each) for each in x])
        padded = pad_sequence(x, batch_first=True)
        return {"values": padded, "lengths": lengths}, torch.stack([y for _, y in examples])

    def inputs(self, x: Any, *, training: bool) -> Any:
        return x

    def apply(self, model: nn.Module, x: Any) -> Tensor:
        return model(x["values"], x["lengths"])

    def _read(self, path: Path | None, part: str) -> Examples:
        path = path or Path(__file__).with_name("readings.csv")
        try:
            with path.open(newline="", encoding="utf-8") as file:
                rows = [row for row in csv.DictReader(file) if row.get("part", part) == part]
            x = [torch.tensor([float(v) for v in row["trace_g"].split()]) for row in rows]
            known = bool(rows) and "event" in rows[0]
            y = np.array([self.classes.index(row["event"]) for row in rows]) if known else None
            doors = [row["door"] for row in rows]
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}: not a file of traces: {error!r}") from error
        return Examples(x, y, classes=3, group=doors, where=f"{path}, {part}")
