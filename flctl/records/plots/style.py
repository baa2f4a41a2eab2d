"""Common parts of all pictures: colours, labels, writing the file."""

import importlib.util
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from flctl.errors import UsageError, printable
from flctl.files import explained, new_file
from flctl.outputs import writable

FORMATS = ("png", "svg", "pdf")
COLOURS = (
    "#0969da", "#d4a72c", "#cf222e", "#8250df", "#2da44e",
    "#e16f24", "#6e7781", "#e85aad", "#1b9aaa", "#7d4e2d",
)  # fmt: skip
INK, FAINT = "#24292f", "#d0d7de"
FEDERATED, CENTRAL, ALONE = "#0969da", "#57606a", "#bf8700"
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
}
"""Matplotlib settings of every picture that flctl draws."""
PANELS = (("loss", "loss"), ("accuracy", "accuracy"), ("macro_f1", "macro-F1"))


def needs_matplotlib() -> None:
    """Raises UsageError when it is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError("the picture needs matplotlib: pip install 'flctl[plot]'")


def picture_path(path: Path, option: str, inputs: Iterable[Path] = ()) -> Path:
    """`path` as a place for a picture, absolute. Raises UsageError."""
    if path.suffix.lower().removeprefix(".") not in FORMATS:
        known = f"{', '.join(f'.{name}' for name in FORMATS[:-1])} or .{FORMATS[-1]}"
        raise UsageError(f"{option} {path}: a picture's name ends with {known}")
    return writable(path, option, inputs)


@contextmanager
def picture(
    path: Path,
    option: str,
    title: str,
    below: str,
    *,
    lines: int = 1,
    columns: int,
    size: tuple[float, float],
    layout: Mapping[str, Any] | None = None,
    style: dict[Any, Any] | None = None,
    **axes: Any,
) -> Iterator[tuple[Any, Any]]:
    """A figure and its axes below two lines of text; written to `path` when the block ends well,
    whole or not at all. `layout`: how constrained panels are spaced. Raises StateError."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    width, height = size
    with mpl.rc_context({**STYLE, "font.family": "DejaVu Sans", **(style or {})}):
        if layout is not None:
            room = (0.01, 0.005, 0.98, 1 - 0.9 / height)  # below the title
            axes["layout"] = ConstrainedLayoutEngine(rect=room, **layout)
        figure, panels = plt.subplots(lines, columns, figsize=size, dpi=140, squeeze=False, **axes)
        try:
            # A name is text, not mathematics, and may hold bytes that are no character.
            for y, words, look in ((0.36, printable(title), {"fontsize": 13, "weight": "bold"}),
                                   (0.66, below, {"color": CENTRAL})):  # fmt: skip
                text = figure.text(0.12 / width, 1 - y / height, words, parse_math=False, **look)
                edge = 0.99 * figure.bbox.width
                while text.get_window_extent().x1 > edge and text.get_fontsize() > 3:
                    text.set_fontsize(0.97 * text.get_fontsize())
            yield figure, panels
            kind = path.suffix.lower().removeprefix(".")
            metadata = {"Software" if kind == "png" else "Creator": "flctl"}
            with explained(path, "save the picture", option), new_file(path) as file:
                figure.savefig(file, format=kind, metadata=metadata)
        finally:
            plt.close(figure)


def apart(values: list[float], gap: float) -> list[float]:
    """Places for labels near `values`, in their order, at least `gap` from one another."""
    order = sorted(range(len(values)), key=values.__getitem__)
    places = list(values)
    for below, above in pairwise(order):
        places[above] = max(places[above], places[below] + gap)
    return places
