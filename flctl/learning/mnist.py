"""Task `mnist`: handwritten digits, or whatever else comes in MNIST's four files."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from flctl.errors import DataError
from flctl.learning.cases import Cases
from flctl.learning.classification import Classification
from flctl.learning.examples import Examples
from flctl.learning.idx import (
    Array,
    Part,
    downloaded,
    find_folder,
    has_part,
    is_downloaded,
    read_images,
    read_part,
    write_part,
)

if TYPE_CHECKING:
    from torch import Tensor, nn


class Mnist(Classification):
    """Data: a folder with the IDX files of MNIST or FashionMNIST (as they are published, or
    unpacked, or as torchvision lays them out). Without one MNIST is downloaded.
    """

    name = "mnist"
    classes = ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")
    defaults: ClassVar[Mapping[str, Any]] = {"rounds": 5, "batch_size": 64, "lr": 0.05}

    def model(self) -> "nn.Module":
        from flctl.learning.mnist_net import Net

        return Net()

    def is_here(self) -> bool:
        return is_downloaded()

    def train_data(self, path: Path | None) -> Examples:
        return self._read(_folder(path), "train")

    def held_out(self, path: Path | None) -> Examples | None:
        """The test files, if the folder of the training files has them."""
        folder = _folder(path)
        return self._read(folder, "t10k") if has_part(folder, "t10k") else None

    def test_parts(self, path: Path | None) -> dict[str, Examples]:
        return {"test": self._read(_folder(path), "t10k")}

    def cases(self, path: Path) -> Cases:
        """A folder's images for testing, or one file of images without their labels."""
        if not path.is_file():
            return super().cases(path)
        images = _checked(read_images(path), f"{path}:")
        nobody = np.zeros(len(images), np.int64)
        return Cases(Examples(images, nobody, classes=10, where=str(path)), labelled=False)

    def write(self, folder: Path, train: Examples | None, tests: Mapping[str, Examples]) -> None:
        """The four IDX files, or two of them, as they are published but not packed."""
        if train is not None:
            write_part(folder, "train", train.array, train.labels)
        for test in tests.values():  # there is one, if any
            write_part(folder, "t10k", test.array, test.labels)

    def inputs(self, x: "Tensor", *, training: bool) -> "Tensor":  # noqa: ARG002
        """Bytes to numbers of mean 0 and deviation 1 over MNIST."""
        return ((x.float() / 255 - 0.1307) / 0.3081).unsqueeze(1)

    def loss(self, output: "Tensor", target: "Tensor") -> "Tensor":
        from torch.nn import functional

        return functional.nll_loss(output, target)

    def _read(self, folder: Path, part: Part) -> Examples:
        images, labels = read_part(folder, part)
        _checked(images, f"{folder}: {part}")
        return Examples(images, labels, classes=10, where=f"{folder}, {part}")


def _checked(images: Array, where: str) -> Array:
    if images.shape[1:] != (28, 28):
        raise DataError(f"{where} images of {list(images.shape[1:])}, not 28 x 28")
    return images


def _folder(path: Path | None) -> Path:
    return downloaded() if path is None else find_folder(path)
