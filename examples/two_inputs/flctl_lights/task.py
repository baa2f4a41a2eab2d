"""Task `lights`: whether a lamp is on, from a picture of the wall and the light outside."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flctl import Cases, Classification, DataError, Examples

SIZE = 8


class TwoInputs(nn.Module):
    """A picture, shape (n, 1, 8, 8), and a number, shape (n, 1), to logits."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.seen = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.AvgPool2d(4), nn.Flatten()
        )
        self.last = nn.Sequential(nn.Linear(16 + 1, 16), nn.ReLU(), nn.Linear(16, classes))

    def forward(self, picture: Tensor, outside: Tensor) -> Tensor:
        return self.last(torch.cat([self.seen(picture), outside], dim=1))


class Lights(Classification):
    name = "lights"
    classes = ("off", "on")
    defaults = {"rounds": 20, "batch_size": 16, "lr": 0.01, "optimizer": "Adam", "epochs": 2}

    def model(self) -> nn.Module:
        return TwoInputs(len(self.classes))

    def train_data(self, path: Path | None) -> Examples:
        return self._read(path, "train")

    def held_out(self, path: Path | None) -> Examples:
        return self._read(path, "test")

    def cases(self, path: Path) -> Cases:
        """All rows of a file, whatever part they are of."""
        return Cases(self._read(path, None))

    def inputs(self, x: Any, *, training: bool) -> Any:
        """Each around 0 and about 1 apart; the batch of dicts is a dict of tensors here."""
        return {
            "picture": x["picture"].float() / 128 - 1,
            "outside": x["outside"].float()[:, None] / 50 - 1,
        }

    def apply(self, model: nn.Module, x: Any) -> Tensor:
        return model(x["picture"], x["outside"])

    def _read(self, path: Path | None, part: str | None) -> Examples:
        """A list of dicts; a file without the column lamp can be predicted."""
        path = path or Path(__file__).with_name("readings.csv")
        try:
            with path.open(newline="", encoding="utf-8") as file:
                rows = [
                    row for row in csv.DictReader(file) if part in (None, row.get("part", part))
                ]
            x = [{"picture": _picture(row), "outside": float(row["outside_klx"])} for row in rows]
            known = bool(rows) and "lamp" in rows[0]
            y = np.array([self.classes.index(row["lamp"]) for row in rows]) if known else None
            cameras = [row["camera"] for row in rows]
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}: not a file of pictures: {error!r}") from error
        return Examples(x, y, classes=2, group=cameras, where=f"{path}, {part or 'all'}")


def _picture(row: dict[str, str]) -> Tensor:
    grey = torch.tensor(list(bytes.fromhex(row["picture"])), dtype=torch.uint8)
    return grey.reshape(1, SIZE, SIZE)
