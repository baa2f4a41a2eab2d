"""The picture of `flctl runs plot`: what a run's journal says, round by round."""

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flctl.core.events import RoundCommitted
from flctl.core.metrics import LOSS, confusion_of, in_words, labels
from flctl.errors import FlctlError
from flctl.formats import counted, figure
from flctl.records.plots.style import COLOURS, FEDERATED, INK, apart, picture
from flctl.records.tables import by_agents, training_loss

if TYPE_CHECKING:
    from flctl.records.recorded import RecordedRun

COLUMNS = 3
NAMED = 10
"""More agents than this cannot be distinguished by colour."""
LABELLED = 20
"""More classes than that have no names next to the matrix, nor numbers in it."""
DIVERGED = 1e30
"""A loss beyond it is left out: the others could not be seen."""
OCHRE, SLOWEST, MISSING, BARS = "#bf8700", "#0550ae", "#cf222e", "#9ec5f4"
TRAINING = "training"

Panel = Callable[[Any], None]


def draw(path: Path, run: "RecordedRun", classes: Sequence[str], per_agent: bool) -> None:
    """Write the picture to `path` as PNG. Raises RunError without a round, StateError."""
    panels = _panels(run.rounds, classes, per_agent)
    lines = -(-len(panels) // COLUMNS)
    with picture(
        path, "--out", f"{run.task}: run {run.name}", _below(run), lines=lines, columns=COLUMNS,
        size=(12.6, 1.0 + 3.5 * lines), layout={"wspace": 0.05, "hspace": 0.06},
        style={"axes.titlesize": 11},
    ) as (_, axes):  # fmt: skip
        for axis, panel in zip_longest(axes.flat, panels):
            panel(axis) if panel is not None else axis.set_visible(False)


def _panels(
    rounds: Sequence[RoundCommitted], classes: Sequence[str], per_agent: bool
) -> list[Panel]:
    last = _last_measured(rounds)
    keys = list(labels(event.metrics for event in rounds).items())
    keys = keys or [(LOSS.name, "training loss, mean of the agents")]
    panels: list[Panel] = [
        lambda axis, key=key, title=title: _figure(axis, rounds, key, title)  # type: ignore[misc]
        for key, title in keys
    ]
    panels.append(lambda axis: _times(axis, rounds))
    panels.append(lambda axis: _agents(axis, rounds))
    if last is not None and last.metrics and (confusion := confusion_of(last.metrics.counts)):
        panels.append(lambda axis: _confusion(axis, confusion, classes, last.round))
    if per_agent:
        while len(panels) % COLUMNS:  # in a line of their own
            panels.append(lambda axis: axis.set_visible(False))
        for key, title in (("loss", "training loss of each agent"),
                           ("seconds", "seconds of each agent's training"),
                           ("examples", "examples of each agent")):  # fmt: skip
            panels.append(
                lambda axis, key=key, title=title: _each(axis, rounds, key, title)  # type: ignore[misc]
            )
    return panels


def _last_measured(rounds: Sequence[RoundCommitted]) -> RoundCommitted | None:
    return next((event for event in reversed(rounds) if event.metrics is not None), None)


def _figure(axis: Any, rounds: Sequence[RoundCommitted], key: str, title: str) -> None:
    """One metric on every part that was measured; next to the loss, that of training."""
    curves: dict[str, dict[int, float]] = {}
    if key == "loss":
        training = {e.round: training_loss(e.participants) for e in rounds}
        curves[TRAINING] = {r: v for r, v in training.items() if v is not None}
    for event in rounds:
        if event.metrics is None:
            continue
        beside = {} if by_agents(event) else event.metrics.beside
        chosen = {event.metrics.chosen_on: v} if (v := event.metrics.validation) else {}
        for name, found in {**chosen, event.metrics.part: event.metrics, **beside}.items():
            if key in found.values:
                curves.setdefault(name, {})[event.round] = found.values[key]
    main = next((e.metrics.part for e in rounds if e.metrics is not None), None)
    plain = {name: _plain(curve) for name, curve in curves.items()}
    curves = {n: curve for n, curve in plain.items() if not all(map(math.isnan, curve.values()))}
    for name, curve in curves.items():
        colour, wide = _look(name, main, list(curves))
        line = {"color": colour, "linewidth": wide, "solid_capstyle": "round"}
        axis.plot(list(curve), list(curve.values()), label=name, **line)
    _over_rounds(axis, rounds, title)
    if key == "loss":
        axis.set_ylim(0, axis.get_ylim()[1] * 1.05)
    low, high = axis.get_ylim()
    ends = {n: (max(c), c[max(c)]) for n, c in curves.items() if not math.isnan(c[max(c)])}
    heights = apart([value for _, value in ends.values()], (high - low) * 0.055)
    for (name, (end, value)), height in zip(ends.items(), heights, strict=True):
        colour, wide = _look(name, main, list(curves))
        axis.plot([end], [value], "o", color=colour, markersize=2 + wide)
        axis.annotate(
            f"{value:.{2 if key == 'loss' else 3}f}", (end, height), xytext=(6, 0), va="center",
            textcoords="offset points", color=colour, fontsize=8.5, fontweight="bold",
            annotation_clip=False,
        )  # fmt: skip
    if len(curves) > 1:
        axis.legend(frameon=False, fontsize=8.5, loc="best")


def _look(name: str, main: str | None, names: Sequence[str]) -> tuple[str, float]:
    """Colour and width of a curve."""
    if name in (TRAINING, main):
        return (FEDERATED, 2.4) if name == main else (OCHRE, 1.3)
    others = [colour for colour in COLOURS[2:] if colour != MISSING]
    at = [other for other in names if other not in (TRAINING, main)].index(name)
    return others[at % len(others)], 1.6


def _plain(curve: Mapping[int, float]) -> dict[int, float]:
    """The curve with a gap where it diverged."""
    return {at: value if abs(value) < DIVERGED else math.nan for at, value in curve.items()}


def _times(axis: Any, rounds: Sequence[RoundCommitted]) -> None:
    """The whole of each round, and within it the agent that trained longest."""
    at = [event.round for event in rounds]
    wide = _wide(rounds)
    axis.bar(at, [event.seconds for event in rounds], wide, color=BARS, label="the whole")
    longest = [max((p.seconds for p in e.participants.values()), default=0) for e in rounds]
    inner = wide if wide == 1 else wide / 2
    axis.bar(at, longest, inner, color=SLOWEST, label="training of the slowest agent")
    _over_rounds(axis, rounds, "time of each round, seconds")
    _legend_above(axis)


def _agents(axis: Any, rounds: Sequence[RoundCommitted]) -> None:
    """How many took part, and how many were missing."""
    from matplotlib.ticker import MaxNLocator

    at = [event.round for event in rounds]
    took_part = [len(event.participants) for event in rounds]
    missing = [len(event.missing) for event in rounds]
    wide = _wide(rounds)
    axis.bar(at, took_part, wide, color=BARS, label="took part")
    if any(missing):
        axis.bar(at, missing, wide, bottom=took_part, color=MISSING, label="missing")
    _over_rounds(axis, rounds, "agents of each round")
    axis.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    _legend_above(axis)


def _confusion(
    axis: Any, confusion: Sequence[Sequence[int]], classes: Sequence[str], round_id: int
) -> None:
    """Each row, which is a true class, by its own shares: rare classes are seen too."""
    shares = [[n / max(sum(row), 1) for n in row] for row in confusion]
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axis.grid(visible=False)
    axis.set_title(f"confusion in round {round_id}", loc="left", fontweight="bold")
    axis.set_xlabel("the model says")
    axis.set_ylabel("true class")
    axis.tick_params(length=0)
    if len(classes) > LABELLED:
        return
    at = range(len(classes))
    long = max(map(len, classes)) * len(classes) > 42
    axis.set_xticks(at, classes, rotation=40 if long else 0, ha="right" if long else "center")
    axis.set_yticks(at, classes)
    for y, row in enumerate(confusion):
        for x, n in enumerate(row):
            if n:
                colour = "white" if shares[y][x] > 0.55 else INK
                axis.text(x, y, f"{n:,}", ha="center", va="center", color=colour,
                          fontsize=9 if len(classes) <= 6 else 7)  # fmt: skip


def _each(axis: Any, rounds: Sequence[RoundCommitted], key: str, title: str) -> None:
    """A line for each agent; of many agents their median too, and no colours."""
    agents = sorted({agent for event in rounds for agent in event.participants})
    few = len(agents) <= NAMED
    for number, agent in enumerate(agents):
        curve = _plain(
            {e.round: float(getattr(e.participants[agent], key)) if agent in e.participants
             else math.nan for e in rounds}
        )  # fmt: skip
        axis.plot(
            list(curve),
            list(curve.values()),
            color=COLOURS[number] if few else FEDERATED,
            alpha=1.0 if few else max(0.08, min(0.5, 6 / len(agents))),
            linewidth=1.6 if few else 1.0,
            label=agent if few else ("each agent" if not number else None),
            marker="o" if few else ".",
            markersize=2.5,
        )
    if not few:
        from statistics import median

        middle = {e.round: median(float(getattr(p, key)) for p in e.participants.values())
                  for e in rounds if e.participants}  # fmt: skip
        axis.plot(list(middle), list(middle.values()), color=INK, linewidth=2, label="median")
    _over_rounds(axis, rounds, title)
    axis.set_ylim(0, axis.get_ylim()[1] * 1.1)
    if key == "loss" or not few:
        axis.legend(frameon=False, fontsize=8.5, ncols=2 if len(agents) > 5 and few else 1)


def _over_rounds(axis: Any, rounds: Sequence[RoundCommitted], title: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_title(title, loc="left", fontweight="bold")
    axis.set_xlabel("round")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axis.set_xlim(rounds[0].round - 0.6, rounds[-1].round + 0.6)


def _legend_above(axis: Any) -> None:
    """Bars leave no corner free."""
    top = axis.get_ylim()[1]
    axis.set_ylim(0, top * 1.22)
    axis.legend(
        frameon=False, fontsize=8.5, loc="upper right", ncols=2, handlelength=1.3, columnspacing=1.2
    )


def _wide(rounds: Sequence[RoundCommitted]) -> float:
    return 0.75 if len(rounds) <= 60 else 1.0


def _below(run: "RecordedRun") -> str:
    """What kind of run it is, and how good its best model."""
    rounds, settings, best = run.rounds, run.settings, run.history.best
    people = {agent for event in rounds for agent in event.participants}
    kind = "" if run.kind == "fleet" else f"{run.kind} "
    said = [
        counted(len(people), f"{kind}agent"),
        f"{len(rounds)} of {counted(settings['rounds'], 'round')}",
        str(settings.get("strategy", "fedavg")),
        run.state,
    ]
    score = best.metrics if best is not None else None
    if best is not None and score is not None and max(score.values.values()) < DIVERGED:
        said.append(
            f"best ({score.rule}: {figure(score.chosen, 3)}) round {best.round}: "
            f"{in_words(score)} on {score.part}, {counted(score.examples, 'example')}"
        )
    return "  ·  ".join(said)


def class_names(run: "RecordedRun", given: str | None) -> tuple[str, ...]:
    """Class names of the task that is `given` or installed; otherwise the class numbers."""
    last = _last_measured(run.rounds)
    count = len(confusion_of(last.metrics.counts)) if last and last.metrics else 0
    if count:
        with contextlib.suppress(FlctlError, ModuleNotFoundError):  # without torch no task loads
            from flctl.learning.registry import task_to_load
            from flctl.learning.task import load_task

            args = run.settings.get("task_args", {})
            names = tuple(load_task(task_to_load(given, run.task, run.name), args).classes)
            if len(names) == count:
                return names
    return tuple(map(str, range(count)))
