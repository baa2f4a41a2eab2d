"""Task `lamps`: which lamp of a machine is on, from images that are read one by one.

For folders of images the built-in task `images` is enough (docs/reference/tasks.md); this one
shows how to write such a task yourself.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

from flctl import Classification, DataError, Examples

SIZE = 24


class Files(Dataset[Tensor]):
    """Each image as uint8, shape (3, SIZE, SIZE); read when a batch needs it."""

    def __init__(self, files: list[Path]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        with Image.open(self.files[index], formats=("PNG",)) as image:
            pixels = np.array(image.convert("RGB").resize((SIZE, SIZE)))
        return torch.from_numpy(pixels).permute(2, 0, 1)


class Lamps(Classification):
    name = "lamps"
    classes = ("green", "off", "red")
    defaults = {"rounds": 15, "batch_size": 8, "lr": 0.01, "optimizer": "Adam"}

    def model(self) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2),
            nn.ReLU(),
            nn.AdaptiveMaxPool2d(1),
            nn.Flatten(),
            nn.Linear(16, len(self.classes)),
        )

    def train_data(self, path: Path | None) -> Examples:
        return self._read(path, held_out=False)

    def held_out(self, path: Path | None) -> Examples:
        return self._read(path, held_out=True)

    def inputs(self, x: Tensor, *, training: bool) -> Tensor:
        return x.float() / 255 - 0.5

    def _read(self, path: Path | None, held_out: bool) -> Examples:
        """Of each class every fourth image, by name, is for testing."""
        folder = path or Path(__file__).with_name("images")
        by_class = {name: sorted((folder / name).glob("*.png")) for name in self.classes}
        files, labels = [], []
        for label, name in enumerate(self.classes):
            for number, file in enumerate(by_class[name]):
                if (number % 4 == 3) == held_out:
                    files.append(file)
                    labels.append(label)
        if not files:
            raise DataError(f"{folder}: no folders {', '.join(self.classes)} with PNG images")
        return Examples(
            Files(files),
            np.array(labels),
            classes=len(self.classes),
            group=[file.name.rpartition("-")[0] for file in files],
            names=[f"{file.parent.name}/{file.name}" for file in files],
            where=str(folder),
        )
