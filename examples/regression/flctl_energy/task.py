"""Task `energy`: how much energy a house uses on a day, from the weather and its people."""

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from flctl import DataError, Examples, Regression, read_rows

INPUTS = ("outside_c", "wind_m_s", "sun_h", "people")
USUAL = torch.tensor([9.0, 3.0, 6.0, 2.5])
SPREAD = torch.tensor([7.0, 3.0, 3.5, 1.7])


class Energy(Regression):
    name = "energy"
    unit = "kWh"
    center, scale = 18.0, 9.0
    defaults = {"rounds": 20, "batch_size": 16, "lr": 0.05}

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(len(INPUTS), 32), nn.ReLU(), nn.Linear(32, 1))

    def train_data(self, path: Path | None) -> Examples:
        return self._read(path, "train")

    def held_out(self, path: Path | None) -> Examples | None:
        return self._read(path, "test")

    def inputs(self, x: Tensor, *, training: bool) -> Tensor:
        return (x - USUAL.to(x.device)) / SPREAD.to(x.device)

    def write(self, folder: Path, train: Examples | None, tests: Mapping[str, Examples]) -> None:
        """For `flctl data split`; `_read` reads it back."""
        with (folder / "readings.csv").open("w", newline="", encoding="utf-8") as file:
            out = csv.writer(file, lineterminator="\n")
            out.writerow(("house", "part", *INPUTS, "energy_kwh"))
            for part, examples in {**({"train": train} if train else {}), **tests}.items():
                for house, x, y in zip(examples.group, examples.x, examples.y, strict=True):
                    out.writerow((house, part, *x.tolist(), y.item()))

    def _read(self, path: Path | None, part: str) -> Examples | None:
        """A file without the column energy_kwh can be predicted; a folder is a share of a split."""
        path = path or Path(__file__).with_name("readings.csv")
        path = path / "readings.csv" if path.is_dir() else path
        rows = read_rows(path, numbers=(*INPUTS, "energy_kwh"))
        rows = [row for row in rows if row.get("part", part) == part]
        try:
            x = torch.tensor([[row[name] for name in INPUTS] for row in rows])
            known = bool(rows) and "energy_kwh" in rows[0]
            y = np.array([row["energy_kwh"] for row in rows]) if known else None
            houses = [row["house"] for row in rows]
        except KeyError as error:
            raise DataError(f"{path}: not a file of readings: {error!r}") from error
        if part == "test" and not rows:
            return None
        return Examples(x, y, group=houses, where=f"{path}, {part}")
