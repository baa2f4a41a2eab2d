"""Where a picture goes, and how it gets there."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flctl.cli.models import writable
from flctl.errors import UsageError
from flctl.files import explained, new_file

FORMATS = ("png", "svg", "pdf")


def picture_path(path: Path, option: str, inputs: Iterable[Path] = ()) -> Path:
    """`path` as a place for a picture, absolute. Raises UsageError."""
    if path.suffix.lower().removeprefix(".") not in FORMATS:
        known = f"{', '.join(f'.{name}' for name in FORMATS[:-1])} or .{FORMATS[-1]}"
        raise UsageError(f"{option} {path}: a picture's name ends with {known}")
    return writable(path, option, inputs)


def save_picture(figure: Any, path: Path, option: str, dpi: int = 150) -> None:
    """In the format that the name says, whole or not at all. Raises StateError."""
    kind = path.suffix.lower().removeprefix(".")
    metadata = {"Software" if kind == "png" else "Creator": "flctl"}
    with explained(path, "save the picture", option), new_file(path) as file:
        figure.savefig(file, format=kind, dpi=dpi, metadata=metadata)
