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
    if found.task.says == "number" and found.cases.labelled and found.said.ndim == 1:
        _draw_numbers(path, found, name)
        return
    examples = found.cases.examples
    first = examples[0][0]
    if getattr(first, "ndim", 0) not in (1, 2, 3):
        raise UsageError(
            "--plot: an example is neither a curve nor an image, so it cannot be drawn"
        )
    curves = first.ndim == 1 or bool(found.task.axes[0])
    kinds = [found.kind(at) for at in range(len(found))]
    chosen = choose(kinds, MOST)
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
            x = examples[at][0]
            _curve(axis, *found.task.points(x)) if curves else _image(axis, x)
            classes = found.task.classes
            number = classes.index(kinds[at]) if kinds[at] in classes else 0
            _title(axis, found, at, COLOURS[number % len(COLOURS)])
        if curves:
            _label(axes, found, len(chosen))
        figure.subplots_adjust(
            left=0.62 / width,
            right=1 - 0.15 / width,
            top=1 - 0.98 / height,
            bottom=0.5 / height,
            wspace=0.12,
            hspace=0.3,
        )


def choose(best: Sequence[Any], most: int) -> list[int]:
    """Which of the cases to show: of each class the first ones, by turns, in their order."""
    by_class: dict[Any, list[int]] = {}
    for at, found in enumerate(best):
        by_class.setdefault(found, []).append(at)
    by_turns = [at for turn in zip_longest(*by_class.values()) for at in turn if at is not None]
    return sorted(by_turns[:most])


def _curve(axis: Any, across: Any, up: Any) -> None:
    axis.axvline(0, color=FAINT, linewidth=1.2) if float(across.min()) < 0 else None
    if up.ndim == 1:
        axis.plot(across.numpy(), up.numpy(), color="#24292f", linewidth=1.1)
    else:  # several curves, each in a colour
        axis.plot(across.numpy(), up.numpy(), linewidth=0.9)


def _image(axis: Any, x: Any) -> None:
    shown = x.permute(1, 2, 0) if x.ndim == 3 else x  # channels last
    axis.imshow(shown.numpy(), cmap="gray_r", interpolation="nearest")
    axis.set_axis_off()


def _draw_numbers(path: Path, found: "Predictions", name: str) -> None:
    """Each example's number as it is predicted, over what the file says."""
    true, said = found.cases.examples.targets, found.said
    with picture(
        path,
        "--plot",
        name,
        f"examples: {len(found):,}. {found.verdict}",
        columns=1,
        size=(6.4, 6.2),
    ) as (figure, ((axis,),)):
        ends = [min(true.min(), said.min()), max(true.max(), said.max())]
        axis.plot(ends, ends, color=CENTRAL, linewidth=1)
        axis.plot(true, said, "o", color=COLOURS[0], markersize=3, alpha=0.5)
        unit = f", {found.task.unit}" if found.task.unit else ""
        axis.set_xlabel(f"the file says{unit}")
        axis.set_ylabel(f"predicted{unit}")
        figure.subplots_adjust(left=0.13, right=0.97, top=0.86, bottom=0.1)


def _title(axis: Any, found: "Predictions", at: int, colour: str) -> None:
    """The prediction, its probability, and the label of the file if that differs."""
    axis.set_title(found.headline(at), loc="left", color=colour, fontweight="bold",
                   fontsize=9, pad=3)  # fmt: skip
    wrong = found.wrong(at)
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
