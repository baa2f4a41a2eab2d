"""Images in folders, one folder for each class, read one by one: they may be a stranger's."""

import io
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from flctl.errors import DataError, NeedsExtra, OtherData, one_line
from flctl.files import absent
from flctl.learning.manifest import MANIFEST
from flctl.settings import is_utf8

if TYPE_CHECKING:
    from torch import Tensor

SUFFIXES = (".jpg", ".jpeg", ".png")
FORMATS = ("JPEG", "PNG")
MOST_BYTES, MOST_PIXELS = 64 * 1024**2, 64_000_000
"""A larger image is left out: a few bytes can unpack to gigabytes."""
WHITE = (255, 255, 255)

Source: TypeAlias = Path | bytes
"""A file, or what would be in it."""


@dataclass(frozen=True)
class Folder:
    """The images of one folder with classes."""

    classes: tuple[str, ...]
    """Names of the folders with images, sorted."""
    sources: list[Source] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)


def list_folder(root: Path) -> Folder:
    """By class and name. Nothing outside of `root` is read, whatever links there are. Raises
    DataError, OtherData where no folder with images is."""
    if not root.exists():
        raise DataError(f"{root}: {absent(root)}")
    found = Folder(())
    classes = []
    inside = root.resolve()
    for folder in sorted(root.iterdir() if root.is_dir() else ()):
        if folder.name[0] == "." or not folder.is_dir():
            continue
        before = len(found.sources)
        for file in _files(folder, inside, found.left_out):
            size = file.stat().st_size
            found.sources.append(file)
            # The size tells two images of one name in different parts from each other.
            found.names.append(f"{file.relative_to(root).as_posix()}, {size:,} bytes")
            found.labels.append(folder.name)
        if len(found.sources) > before:
            classes.append(folder.name)
    if not classes:
        raise OtherData(f"{root}: holds no folders with {' or '.join(FORMATS)} images")
    return Folder(tuple(classes), found.sources, found.names, found.labels, found.left_out)


def _files(folder: Path, inside: Path, left_out: dict[str, int]) -> Iterator[Path]:
    def note(why: str) -> None:
        left_out[why] = left_out.get(why, 0) + 1

    if not folder.resolve().is_relative_to(inside):
        note("links that lead out of the folder")
        return
    if (folder / MANIFEST).is_file() and any(folder.glob("pi-*")):
        note("folders with shares that flctl data split has written")
        return
    for at, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name[0] != ".")
        for name in sorted(name for name in names if name[0] != "."):
            file = Path(at) / name
            if file.suffix.lower() not in SUFFIXES:
                note("files that are no JPEG or PNG")
            elif not is_utf8(str(file)):
                note("files whose name is not UTF-8")
            elif not file.is_file():
                pass  # a link to itself, or a pipe, which would be waited for
            elif not file.resolve().is_relative_to(inside):
                note("links that lead out of the folder")
            else:
                yield file


class Pictures(Sequence[Any]):
    """A Dataset of images, each uint8 of shape (3, size, size), decoded when it is asked for."""

    def __init__(self, sources: Sequence[Source], size: int) -> None:
        self.sources, self.size = sources, size

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, index: Any) -> Any:
        return decode(self.sources[index], self.size)


def decode(source: Source, size: int) -> "Tensor":
    """An image as people see it: upright, on white where it is transparent, its middle square.
    Raises DataError for what is broken or too large."""
    import torch

    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise NeedsExtra("images need Pillow: pip install 'flctl[images]'") from error
    try:
        if isinstance(source, Path) and source.stat().st_size > MOST_BYTES:
            raise DataError(f"larger than {MOST_BYTES // 1024**2} MiB")
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.simplefilter("ignore", UserWarning)
            file: Any = io.BytesIO(source) if isinstance(source, bytes) else source
            with Image.open(file, formats=FORMATS) as image:
                width, height = image.size
                if width * height > MOST_PIXELS:
                    raise DataError(f"{width} x {height} pixels: more than {MOST_PIXELS:,}")
                image.draft("RGB", (2 * size, 2 * size))  # a JPEG needs not be decoded whole
                pixels = np.array(_upright(image, size), np.uint8)
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError,
            Image.DecompressionBombWarning) as error:  # fmt: skip
        said = one_line(error).replace(f" {str(source)!r}", "")
        raise DataError(f"cannot be read: {said}") from error
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def _upright(image: Any, size: int) -> Any:
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "I;16", "I;16B", "F"):  # 16 bits of grey
        grey = np.asarray(image, np.float64) / 256
        image = Image.fromarray(grey.clip(0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (*WHITE, 255)), image)
    return ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.BILINEAR)
