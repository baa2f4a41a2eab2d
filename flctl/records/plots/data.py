"""The pictures of `flctl data`: bars of who has how much of what."""

import importlib.util
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flctl.formats import counted
from flctl.records.plots.style import COLOURS, picture

if TYPE_CHECKING:
    from flctl.learning.manifest import Counts, Manifest

PARTS = ("#424a53", "#9aa4af", "#d0d7de")
"""Greys, so that a part is not taken for a class."""
ROWS = 60
"""Maximum number of distinguishable bars."""
NAMED = 20
"""Maximum number of colours named in the legend."""

Rows = Mapping[str, Mapping[str, int]]
"""By name of the bar: how long each of its pieces is."""


def can_draw() -> bool:
    return importlib.util.find_spec("matplotlib") is not None


def draw_shares(path: Path, manifest: "Manifest") -> None:
    """How many training examples each agent got, and their mix, by class."""
    trains = {n: s.parts["train"] for n, s in manifest.shares.items() if "train" in s.parts}
    rows = _first({name: train.classes for name, train in trains.items()})
    total = sum(train.examples for train in trains.values())
    mixed = f", alpha {manifest.alpha:g}" if manifest.partition == "dirichlet" else ""
    shown = f"; the first {len(rows)} are shown" if len(rows) < len(trains) else ""
    with _figure(
        path,
        f"{total:,} training examples of {manifest.task}, dealt to "
        f"{counted(manifest.agents, 'agent')}",
        f"Partition {manifest.partition}{mixed}, seed {manifest.seed}{shown}.",
        panels=2,
        rows=len(rows),
    ) as (figure, ((amounts, mixes),)):
        ends = [
            f"{trains[name].examples:,}"
            + (f" · {counted(len(trains[name].records), 'record')}" if trains[name].records else "")
            for name in rows
        ]
        _bars(amounts, rows, manifest.classes, "examples", ends)
        _bars(mixes, _mix(rows), manifest.classes, "mix of the examples, %")
        mixes.set_xlim(0, 100)
        _legend(figure, amounts)


def draw_data(
    path: Path, title: str, noun: str, classes: Sequence[str], parts: "Mapping[str, Counts]"
) -> None:
    """Each class by part and, where the data have records, each record by class."""
    total = sum(part.examples for part in parts.values())
    by_class = _first({c: {name: part.classes[c] for name, part in parts.items()} for c in classes})
    whole: dict[str, Counter[str]] = {}
    for part in parts.values():
        for record, counts in part.records.items():
            whole.setdefault(record, Counter()).update(counts)
    by_record = _first(dict(sorted(whole.items())))
    amounts = ", ".join(f"{part.examples:,} {name}" for name, part in parts.items())
    with _figure(
        path, f"{title}: {counted(total, 'example')}", f"{amounts}.",
        panels=2 if by_record else 1, rows=max(len(by_class), len(by_record)),
    ) as (figure, (axes,)):  # fmt: skip
        ends = [f"{sum(row.values()):,}" for row in by_class.values()]
        _bars(axes[0], by_class, list(parts), f"examples of each {noun}, by part", ends, PARTS)
        axes[0].legend(
            loc="lower right",
            bbox_to_anchor=(1, 1),
            ncols=len(parts),
            frameon=False,
            borderaxespad=0.2,
            borderpad=0.1,
        )  # next to the title, where no bar is
        if by_record:
            ends = [f"{sum(row.values()):,}" for row in by_record.values()]
            _bars(axes[1], by_record, classes, f"examples of each record, by {noun}", ends)
            _legend(figure, axes[1])


def _figure(path: Path, title: str, below: str, *, panels: int, rows: int) -> Any:
    """A figure with that many panels side by side."""
    size = (5.6 * panels + 0.6, 2.2 + 0.27 * max(rows, 4))
    layout, style = {"wspace": 0.05, "h_pad": 0.08}, {"axes.grid.axis": "x"}
    return picture(
        path, "--png", title, below, columns=panels, size=size, layout=layout, style=style
    )


def _bars(
    axis: Any,
    rows: Rows,
    pieces: Sequence[str],
    title: str,
    ends: Sequence[str] = (),
    colours: Sequence[str] = COLOURS,
) -> None:
    """One bar for each row, the first on top, made of `pieces`; `ends` is written behind."""
    at = range(len(rows))
    left = [0.0] * len(rows)
    for piece, colour in zip(pieces, _enough(colours, len(pieces)), strict=True):
        widths = [row.get(piece, 0) for row in rows.values()]
        axis.barh(at, widths, left=left, color=colour, label=piece, height=0.72)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    for y, (x, end) in enumerate(zip(left, ends, strict=bool(ends))):
        axis.annotate(end, (x, y), xytext=(5, 0), textcoords="offset points", va="center",
                      fontsize=8.5)  # fmt: skip
    axis.set_yticks(at, list(rows))
    axis.tick_params(axis="y", length=0)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    if ends:
        room = 1 + 0.022 * max(map(len, ends))
        axis.set_xlim(0, max(left) * room)
    axis.set_title(title, loc="left", fontsize=10, fontweight="bold")


def _legend(figure: Any, axis: Any) -> None:
    handles, labels = axis.get_legend_handles_labels()
    if len(labels) <= NAMED:
        figure.legend(
            handles, labels, loc="outside lower center", ncols=min(len(labels), 10), frameon=False
        )


def _enough(colours: Sequence[str], count: int) -> Sequence[Any]:
    if count <= len(colours):
        return colours[:count]
    import matplotlib as mpl

    return [mpl.colormaps["turbo"](at / (count - 1)) for at in range(count)]


def _mix(rows: Rows) -> dict[str, dict[str, Any]]:
    """Convert to per cent of each row."""
    return {
        name: {piece: 100 * n / sum(row.values()) for piece, n in row.items()}
        for name, row in rows.items()
    }


def _first(rows: Rows) -> dict[str, Mapping[str, int]]:
    return dict(list(rows.items())[:ROWS])
