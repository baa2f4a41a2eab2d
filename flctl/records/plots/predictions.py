"""The picture of `flctl predict`: examples, and what the model says of them."""

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flctl.errors import UsageError
from flctl.records.plots.style import CENTRAL, COLOURS, FAINT, picture

if TYPE_CHECKING:
    from flctl.learning.predictions import Predictions

COLUMNS, MOST = 6, 24
WRONG = "#cf222e"


def draw(path: Path, found: "Predictions", name: str) -> None:
    """Write up to 24 examples to `path` as PNG, the first ones of each predicted class.

    Raises UsageError when they are neither curves nor images, StateError.
    """
    x = found.cases.examples.x
    if x.ndim not in (2, 3):
        raise UsageError(f"--plot: an example has {x.ndim - 1} dimensions; 1 or 2 can be drawn")
    chosen = choose(found.best, MOST)
    columns = min(COLUMNS, len(chosen))
    lines = -(-len(chosen) // columns)
    width, height = max(2.0 * columns + 0.6, 6.4), 1.65 * lines + 1.55
    with picture(
        path, "--plot", name, _below(found, len(chosen)), lines=lines, columns=columns,
        size=(width, height), style={"font.size": 8}, sharex=True, sharey=True,
    ) as (figure, axes):  # fmt: skip
        for axis, at in zip_longest(axes.flat, chosen):
            if at is None:
                axis.set_visible(False)
                continue
            _image(axis, x[at]) if x.ndim == 3 else _curve(axis, *found.task.points(x[at]))
            _title(axis, found, at)
        if x.ndim == 2:
            _label(axes, found, len(chosen))
        figure.subplots_adjust(
            left=0.62 / width,
            right=1 - 0.15 / width,
            top=1 - 0.98 / height,
            bottom=0.5 / height,
            wspace=0.12,
            hspace=0.3,
        )


def choose(best: Sequence[int], most: int) -> list[int]:
    """Which of the cases to show: of each class the first ones, by turns, in their order."""
    by_class: dict[int, list[int]] = {}
    for at, found in enumerate(best):
        by_class.setdefault(found, []).append(at)
    by_turns = [at for turn in zip_longest(*by_class.values()) for at in turn if at is not None]
    return sorted(by_turns[:most])


def _curve(axis: Any, across: Any, up: Any) -> None:
    axis.axvline(0, color=FAINT, linewidth=1.2) if float(across.min()) < 0 else None
    axis.plot(across.numpy(), up.numpy(), color="#24292f", linewidth=1.1)


def _image(axis: Any, x: Any) -> None:
    axis.imshow(x.numpy(), cmap="gray_r", interpolation="nearest")
    axis.set_axis_off()


def _title(axis: Any, found: "Predictions", at: int) -> None:
    """What it is, how surely, and what the file says when that is something else."""
    name, probability = found.top(at)[0]
    colour = COLOURS[found.task.classes.index(name) % len(COLOURS)]
    axis.set_title(f"{name} {probability:.2f}", loc="left", color=colour, fontweight="bold",
                   fontsize=9, pad=3)  # fmt: skip
    wrong = found.cases.labelled and found.true(at) != name
    text = f"is {found.true(at)}" if wrong else ""
    axis.set_title(f"{text}  #{at + 1}".strip(), loc="right", color=WRONG if wrong else CENTRAL,
                   fontsize=8, pad=3)  # fmt: skip


def _label(axes: Any, found: "Predictions", count: int) -> None:
    across, up = found.task.axes
    columns = axes.shape[1]
    axes[-1, 0].set_xlabel(across)
    for row in axes:
        row[0].set_ylabel(up)
    for column in range(columns):  # where the last row has gaps, the panel above is the lowest
        lowest = (count - 1 - column) // columns
        axes[lowest, column].tick_params(labelbottom=True)


def _below(found: "Predictions", shown: int) -> str:
    counts = "   ".join(f"{found.full(name)}: {n:,}" for name, n in found.counts.items() if n)
    total = len(found)
    part = f"{shown} of {total:,} are shown" if shown < total else ""
    right = f"{found.right:,} of {total:,} right" if found.right is not None else ""
    return "   ".join(filter(None, (counts, right and f"({right})", part and f"({part})")))
