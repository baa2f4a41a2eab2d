"""Task `images`: the class of an image, from JPEG and PNG files (docs/reference/tasks.md)."""

import shutil
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from msgspec import Meta, Struct
from msgspec.structs import replace

from flctl.errors import DataError, OtherData, TaskError
from flctl.learning.arguments import converted
from flctl.learning.cases import Cases
from flctl.learning.classification import Classification
from flctl.learning.examples import Examples
from flctl.learning.manifest import MANIFEST
from flctl.learning.origin import Origin
from flctl.learning.picture_sample import sample_images
from flctl.learning.pictures import SUFFIXES, Folder, Pictures, list_folder

if TYPE_CHECKING:
    from torch import Tensor, nn

HELD_OUT_SHARE = 0.2
"""Share of each class, the last by name, where no folder `test` says it."""
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet, which torchvision's weights expect."""
ZOOM = 0.2


class ImageArgs(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    classes: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=100)], ...], Meta(max_length=1000)
    ] = ()
    """Names of the folders, in this order; empty: those that are there when a run begins."""
    size: Annotated[int, Meta(ge=16, le=512)] = 64
    """Pixels of a side of what the model sees."""
    net: Literal["small", "mobilenet_v3_small"] = "small"
    """A network that learns from a few hundred images, or one to begin from weights with."""
    freeze: bool = False
    """Only the last layer is trained."""
    augment: bool = True
    """Zoom and shift at random while training …"""
    flip: bool = False
    """… and mirror left to right."""


class Images(Classification):
    name = "images"
    args: ImageArgs = ImageArgs()
    defaults: ClassVar[Mapping[str, Any]] = {
        "rounds": 20,
        "epochs": 3,
        "batch_size": 16,
        "optimizer": "Adam",
        "lr": 0.002,
    }

    def take(self, given: Mapping[str, Any]) -> "Images":
        args = converted(self.args, given, self.name)
        assert isinstance(args, ImageArgs)
        self.args, self.classes = args, args.classes
        return self

    def settle(self, path: Path | None) -> None:
        if not self.classes:
            found = {name for part in _parts(path) for name in part.classes}
            self.args = replace(self.args, classes=tuple(sorted(found)))
            self.classes = self.args.classes

    def model(self) -> "nn.Module":
        from flctl.learning import picture_nets

        if len(self.classes) < 2:
            raise TaskError("there are no data to find the classes in: --task-args classes=[…]")
        make = {
            "small": picture_nets.small_net,
            "mobilenet_v3_small": picture_nets.MobileNetV3Small,
        }
        net = make[self.args.net](len(self.classes))
        if self.args.freeze:
            picture_nets.freeze_all_but_last(net)
        return net

    def train_data(self, path: Path | None) -> Examples:
        found = self._examples(path, "train")
        if found is None:
            why = f"{path or self.name}: no images for training"
            shares = path is not None and (path / MANIFEST).is_file()
            raise DataError(f"{why}; name the share of one agent" if shares else why)
        return found

    def held_out(self, path: Path | None) -> Examples | None:
        return self._examples(path, "test")

    def cases(self, path: Path) -> Cases:
        """A folder with classes, one with images alone, or a file."""
        try:
            self.settle(path)
            folders = list(_parts(path))
        except OtherData:
            files = sorted(path.iterdir()) if path.is_dir() else [path]
            files = [file for file in files if file.suffix.lower() in SUFFIXES]
            if not files:
                raise
            names = [file.name for file in files]
            pictures = Pictures(files, self.args.size)
            whole = Examples(pictures, group=names, names=names, where=str(path))
            return Cases(whole, labelled=False)
        sources = [source for folder in folders for source in folder.sources]
        names = [name.split(", ")[0] for folder in folders for name in folder.names]
        known = [self._y(folder, str(path)) for folder in folders]
        return Cases(
            Examples(
                Pictures(sources, self.args.size),
                np.concatenate(known),
                classes=len(self.classes),
                group=names,
                names=names,
                where=str(path),
            ),
            origins=self.origins(path),
        )

    def shape(self) -> tuple[int, ...]:
        return 3, self.args.size, self.args.size

    def origins(self, path: Path | None) -> list[Origin]:
        return [
            Origin(
                file=str(path or self.name),
                examples=len(folder.sources),
                left_out=folder.left_out,
            )
            for folder in _parts(path)
        ]

    def sample(self) -> Mapping[str, bytes]:
        """Drawn shapes of four classes."""
        return sample_images()

    def write(self, folder: Path, train: Examples | None, tests: Mapping[str, Examples]) -> None:
        """The files as they are, in `train` and `test`."""
        parts = [] if train is None else [("train", train)]
        for part, examples in [*parts, *(("test", test) for test in tests.values())]:
            assert examples.names is not None
            for at, name in zip(examples.array, examples.names, strict=True):
                source = examples.items.sources[int(at)]
                target = folder / part / str(name).rpartition(", ")[0]
                target.parent.mkdir(parents=True, exist_ok=True)
                if isinstance(source, bytes):
                    target.write_bytes(source)
                else:
                    shutil.copyfile(source, target)

    def inputs(self, x: "Tensor", *, training: bool) -> "Tensor":
        """Normalised as ImageNet's; while training zoomed, shifted and mirrored."""
        import torch
        from torch.nn import functional

        mean, deviation = (
            torch.tensor(v, device=x.device)[:, None, None] for v in (MEAN, DEVIATION)
        )
        found = (x.float() / 255 - mean) / deviation
        if training and self.args.flip:
            mirrored = torch.rand(len(x), 1, 1, 1).to(x.device) < 0.5
            found = torch.where(mirrored, found.flip(3), found)
        if training and self.args.augment:
            zoom = 1 - ZOOM * torch.rand(len(x))
            shift = (1 - zoom)[:, None] * (2 * torch.rand(len(x), 2) - 1)
            turn = torch.zeros(len(x), 2, 3)
            turn[:, 0, 0] = turn[:, 1, 1] = zoom
            turn[:, :, 2] = shift
            grid = functional.affine_grid(turn, list(found.shape), align_corners=False)
            found = functional.grid_sample(found, grid.to(x.device), align_corners=False)
        return found

    def _examples(self, path: Path | None, part: Literal["train", "test"]) -> Examples | None:
        folder = _part(path, part)
        if folder is None:
            return None
        where = f"{path or self.name}, {part}"
        return Examples(
            Pictures(folder.sources, self.args.size),
            self._y(folder, where),
            classes=len(self.classes),
            names=folder.names,
            where=where,
        )

    def _y(self, folder: Folder, where: str) -> "np.ndarray[Any, np.dtype[np.int64]]":
        number = {name: at for at, name in enumerate(self.classes)}
        if unknown := [name for name in folder.classes if name not in number]:
            have = ", ".join(self.classes)
            raise DataError(
                f"{where}: the folder '{unknown[0]}' is no class of this run ({have:.300}); rename "
                "it, take it away, or name it in classes"
            )
        return np.array([number[name] for name in folder.labels], np.int64)


def _parts(path: Path | None) -> list[Folder]:
    """Of both parts. Raises DataError."""
    if path is not None and any((path / part).is_dir() for part in ("train", "test")):
        return [list_folder(path / part) for part in ("train", "test") if (path / part).is_dir()]
    return [_sample() if path is None else list_folder(path)]


def _part(path: Path | None, part: str) -> Folder | None:
    """None where there is nothing of it."""
    if path is not None and any((path / each).is_dir() for each in ("train", "test")):
        return list_folder(path / part) if (path / part).is_dir() else None
    whole = _sample() if path is None else list_folder(path)
    labels = np.array(whole.labels)
    held = np.zeros(len(labels), np.bool_)
    for name in whole.classes:
        rows = np.flatnonzero(labels == name)
        held[rows[len(rows) - int(HELD_OUT_SHARE * len(rows)) :]] = True
    rows = np.flatnonzero(held if part == "test" else ~held)
    if not len(rows):
        return None
    return Folder(
        whole.classes,
        [whole.sources[row] for row in rows],
        [whole.names[row] for row in rows],
        [whole.labels[row] for row in rows],
        whole.left_out,
    )


@lru_cache(maxsize=1)
def _sample() -> Folder:
    files = sample_images()
    labels = [name.split("/")[0] for name in files]
    names = [f"{name}, {len(content):,} bytes" for name, content in files.items()]
    return Folder(tuple(sorted(set(labels))), [*files.values()], names, labels)
