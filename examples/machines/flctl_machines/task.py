"""Task `machines`: which fault a machine has, from four sensors on it."""

from pathlib import Path

import torch
from torch import Tensor, nn

from flctl import Classification, DataError, Examples, read_rows

SENSORS = ("temperature_c", "vibration_mm_s", "current_a", "noise_db")
USUAL = torch.tensor([55.0, 2.5, 8.0, 70.0])
SPREAD = torch.tensor([8.0, 1.5, 1.5, 5.0])


class Machines(Classification):
    name = "machines"
    classes = ("fine", "bearing", "imbalance")
    defaults = {"rounds": 10, "batch_size": 16, "lr": 0.2}

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(len(SENSORS), 16), nn.ReLU(), nn.Linear(16, 3))

    def train_data(self, path: Path | None) -> Examples:
        return self._read(path, "train")

    def held_out(self, path: Path | None) -> Examples:
        return self._read(path, "test")

    def inputs(self, x: Tensor, *, training: bool) -> Tensor:
        return (x - USUAL.to(x.device)) / SPREAD.to(x.device)

    def _read(self, path: Path | None, part: str) -> Examples:
        path = path or Path(__file__).with_name("readings.csv")
        rows = read_rows(path, numbers=SENSORS)
        try:
            rows = [row for row in rows if row["part"] == part]
            x = torch.tensor([[row[name] for name in SENSORS] for row in rows])
            y = torch.tensor([self.classes.index(row["state"]) for row in rows])
            machines = [row["machine"] for row in rows]
        except (KeyError, ValueError) as error:
            raise DataError(f"{path}: not a file of readings: {error!r}") from error
        return Examples(x, y, classes=3, group=machines, where=f"{path}, {part}")
