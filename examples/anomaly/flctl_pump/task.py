"""Task `pump`: whether a pump behaves as it usually does, from four sensors, without labels."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from flctl import Anomaly, DataError, Examples, read_rows

SENSORS = ("flow_l_s", "pressure_bar", "current_a", "warmth_c")
USUAL = torch.tensor([4.0, 5.6, 3.0, 42.0])
SPREAD = torch.tensor([1.2, 0.8, 0.6, 2.5])


class Pump(Anomaly):
    name = "pump"
    defaults = {"rounds": 20, "batch_size": 16, "lr": 0.3, "epochs": 2}

    def model(self) -> nn.Module:
        """All four from one number, which is about the flow."""
        return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1), nn.Linear(1, 4))

    def train_data(self, path: Path | None) -> Examples:
        return self._read(path, "train")

    def held_out(self, path: Path | None) -> Examples:
        return self._read(path, "test")

    def inputs(self, x: Tensor, *, training: bool) -> Tensor:
        return (x - USUAL.to(x.device)) / SPREAD.to(x.device)

    def _read(self, path: Path | None, part: str) -> Examples:
        """What is for training needs no labels; a file without the column `fault` has none."""
        path = path or Path(__file__).with_name("readings.csv")
        rows = read_rows(path, numbers=SENSORS)
        rows = [row for row in rows if row.get("part", part) == part]
        try:
            x = torch.tensor([[row[name] for name in SENSORS] for row in rows])
            known = part == "test" and bool(rows) and "fault" in rows[0]
            y = np.array([row["fault"] != "" for row in rows], dtype=np.int64) if known else None
            pumps = [row["pump"] for row in rows]
        except KeyError as error:
            raise DataError(f"{path}: not a file of readings: {error!r}") from error
        return Examples(x, y, group=pumps, where=f"{path}, {part}")
