"""The picture of a run: its figures round by round, next to what they are compared with."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flctl.formats import counted
from flctl.records.plots.style import ALONE, CENTRAL, FAINT, FEDERATED, PANELS, apart, picture

if TYPE_CHECKING:
    from flctl.fleet.comparison import Beside, Compared
    from flctl.wire.messages import Metrics


def draw(
    path: Path,
    federated: Mapping[int, Mapping[str, Any]],
    central: "Compared",
    alone: "Compared",
    by: "Beside",
    agents: int,
) -> None:
    """Write the picture to `path` as PNG; `federated` holds each round's metrics."""
    last = federated[max(federated)]
    title = f"One heartbeat classifier, {counted(agents, 'agent')}, no beat leaves its owner"
    below = (
        f"Real MIT-BIH beats of 16 patients; measured on {last['examples']:,} later beats of all "
        f"of them. An agent alone has seen only its own{_own(alone)}."
    )
    each = {a: (own, alone.agents[a]["own"]) for a, own in by.own.items() if a in alone.agents}
    columns = len(PANELS) + bool(each)
    size = (4.0 * columns, 4.6)
    with picture(path, "--out", title, below, columns=columns, size=size) as (figure, (axes,)):
        for axis, (key, heading) in zip(axes, PANELS, strict=False):
            _panel(axis, key, heading, federated, central, alone)
        if each:
            _each(axes[-1], each)
        handles, labels = axes[0].get_legend_handles_labels()
        place = {"loc": "lower center", "bbox_to_anchor": (0.5, 0.055)}
        figure.legend(handles[::-1], labels[::-1], ncols=3, frameon=False, **place)
        note = _unseen(last, central, alone, by)
        figure.text(0.12 / size[0], 0.025, note, ha="left", fontsize=9, color=CENTRAL)
        figure.subplots_adjust(left=0.05, right=0.985, top=0.79, bottom=0.235, wspace=0.2)


def _panel(
    axis: Any,
    key: str,
    title: str,
    federated: Mapping[int, Mapping[str, Any]],
    central: "Compared",
    alone: "Compared",
) -> None:
    value: Callable[[Any], float] = lambda metrics: float(metrics.values[key])  # noqa: E731
    alone_label = f"each agent alone, {counted(max(alone.curve), 'round')}, on all patients (mean)"
    curves = (
        (alone_label, ALONE, {r: value(m) for r, m in alone.curve.items()}, 1.6),
        ("all data in one place", CENTRAL, {r: value(m) for r, m in central.curve.items()}, 1.6),
        ("federated", FEDERATED, {r: float(m["values"][key]) for r, m in federated.items()}, 2.6),
    )
    digits = 2 if key == "loss" else 3
    ends = apart([curve[max(curve)] for _, _, curve, _ in curves], _span(curves) * 0.075)
    for (label, colour, curve, width), at in zip(curves, ends, strict=True):
        line = {"color": colour, "linewidth": width, "solid_capstyle": "round"}
        axis.plot(list(curve), list(curve.values()), label=label, **line)
        end = max(curve)
        axis.plot([end], [curve[end]], "o", color=colour, markersize=3 + width)
        axis.annotate(
            f"{curve[end]:.{digits}f}", (end, at), xytext=(8, 0), textcoords="offset points",
            va="center", color=colour, fontweight="bold", annotation_clip=False,
        )  # fmt: skip
    axis.set_title(title, loc="left", fontweight="bold", fontsize=11)
    axis.set_xlabel("round")
    axis.margins(x=0.02)
    axis.set_xlim(right=max(federated) * 1.19)
    if key != "loss":
        axis.set_ylim(top=1.0)
    else:
        axis.set_ylim(bottom=0)


def _each(axis: Any, found: "Mapping[str, tuple[Metrics, Metrics]]") -> None:
    """Of each agent, on its own later beats: the federated model, and its own."""
    key, heading = PANELS[1]
    order = sorted(found, key=lambda agent: found[agent][0].values[key])
    for at, agent in enumerate(order):
        federated, alone = found[agent]
        one, other = federated.values[key], alone.values[key]
        axis.plot([one, other], [at, at], color=FAINT, linewidth=2, zorder=1)
        axis.plot([federated.constant[key]], [at], "|", color=CENTRAL, markersize=9)
        axis.plot([other], [at], "o", color=ALONE, markersize=6)
        axis.plot([one], [at], "o", color=FEDERATED, markersize=7)
    axis.set_yticks(range(len(order)), order)
    axis.set_ylim(-0.6, len(order) - 0.4)
    axis.set_xlim(right=1.0)
    axis.grid(visible=False, axis="y")
    axis.set_title(f"{heading}, own later beats", loc="left", fontweight="bold", fontsize=11)
    axis.set_xlabel("blue: federated, ochre: the agent's own model\n| always its largest class")


def _span(curves: Any) -> float:
    values = [value for _, _, curve, _ in curves for value in curve.values()]
    return float(max(values) - min(values)) or 1.0


def _own(alone: "Compared") -> str:
    """How good agents alone are on data of their own."""
    own = alone.final.get("own")
    return (
        "" if own is None else f"; on those it reaches an accuracy of {own.values['accuracy']:.2f}"
    )


def _unseen(last: Mapping[str, Any], central: "Compared", alone: "Compared", by: "Beside") -> str:
    """Figures of patients of whom no agent had a beat."""
    part = last.get("beside", {}).get("unseen")
    if part is None or "unseen" not in central.final:
        return ""
    of: Callable[[Any], str] = lambda found: f"{found['unseen'].values['accuracy']:.2f}"  # noqa: E731
    return (
        f"{by.groups.get('unseen', 0)} unseen patients ({part['examples']} beats), accuracy: "
        f"{part['values']['accuracy']:.2f} federated, {of(central.final)} one place, "
        f"{of(alone.final)} alone, {of(by.always)} always "
        f"{by.commonest}. "
        "Data: MIT-BIH Arrhythmia Database, PhysioNet, ODC-BY 1.0."
    )
