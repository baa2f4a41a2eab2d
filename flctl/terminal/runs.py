"""Runs on the terminal: the list, and one run round by round."""

import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from rich.text import Text

from flctl.core.history import BEST, History
from flctl.formats import figure, size, span
from flctl.terminal import chains, output
from flctl.terminal.tables import Table

if TYPE_CHECKING:
    from flctl.core.history import RoundCommitted, Score
    from flctl.wire.messages import Metrics

FIGURES = ("loss", "accuracy", "macro_f1")
STYLES = {"running": "cyan", "finished": "green", "paused": "yellow", "stopped": "yellow"}


def summaries_table(found: Iterable[Mapping[str, Any]]) -> Table:
    made = output.table(
        "run", "state", ">round", ">loss", ">accuracy", ">macro-F1", "started", "~",
        yields=("started", "macro-F1"),
    )  # fmt: skip
    for run in found:
        made.add_row(
            run["run"],
            Text(run["state"], style=STYLES.get(run["state"], "red")),
            f"{run['round']}/{run['rounds']}",
            *(figure((run["metrics"] or {}).get(name), 4) for name in FIGURES),
            time.strftime("%Y-%m-%d %H:%M", time.localtime(run["started"])),
            Text(run["reason"], style="dim"),
        )
    return made


def show_run(found: Mapping[str, Any], history: History, resumable: bool, options: str) -> None:
    """`resumable`: by a command on this machine, which takes `options` to find the run."""
    compression = found["settings"].get("compression", "none")
    for name in ("run", "task", "kind", "state", "reason", "checkpoint"):
        if found[name] and name == "reason":
            long = output.table("", "")
            long.add_row(f"{name:<10}", found[name])
            output.show(long)
        elif found[name]:  # a path to copy stays one line
            output.print_line(f"{name:<11} {found[name]}")
    if compression != "none":
        output.print_line(f"{'compression':<11} {compression}")
    if chain := chains.shown(found.get("chain")):
        output.print_line(f"{'journal':<11} {chain}")
    at_fault = "begin a new run" in (found["reason"] or "")
    if resumable and found["state"] in ("paused", "stopped") and not at_fault:
        task = output.task_option(found["task"])
        resume = f"{output.program()} train --resume {found['run']}{task}{options}"
        output.print_line(f"{'go on with':<11} {resume}")
    if (best := history.best) is not None:
        loss, accuracy, f1 = _figures(best.metrics)
        output.print_line(
            f"{'best':<11} round {best.round} ({BEST}): loss {loss}, accuracy {accuracy}, "
            f"macro-F1 {f1}"
        )
    if history.rounds:
        output.print_line("")
        output.show(_rounds(history.rounds, compression != "none"))
        _show_last(history.rounds[-1])


def _rounds(rounds: "Iterable[RoundCommitted]", compressed: bool) -> Table:
    made = output.table(
        ">round", ">loss", ">accuracy", ">macro-F1", ">took",
        *((">up", ">fewer", ">error") if compressed else ()), ">agents", "~",
        yields=("error", "fewer", "up", "took"),
    )  # fmt: skip
    for event in rounds:
        made.add_row(
            str(event.round),
            *_figures(event.metrics),
            span(event.seconds),
            *(_saved(event) if compressed else ()),
            str(len(event.participants)),
            f"without {', '.join(event.missing)}" if event.missing else "",
        )
    return made


def _saved(event: "RoundCommitted") -> tuple[str, str, str]:
    """Bytes of a round's updates, how many times fewer they are, and the mean relative error."""
    parts = event.participants.values()
    up = sum(part.bytes_up for part in parts)
    error = sum(part.compression_error for part in parts) / max(1, len(parts))
    return size(up), f"{event.size * len(parts) / up:.1f} ×" if up else "-", figure(error)


def _show_last(event: "RoundCommitted") -> None:
    """Who did what in the last round, and the figures beside the main ones."""
    made = output.table(
        f"round {event.round}", ">examples", ">batches", ">loss", ">took", ">bytes up",
        yields=("bytes up", "batches"),
    )  # fmt: skip
    for agent, part in event.participants.items():
        made.add_row(
            agent,
            str(part.examples),
            str(part.batches),
            figure(part.loss, 4),
            span(part.seconds),
            size(part.bytes_up or None),
        )
    output.print_line("")
    output.show(made)
    beside = event.metrics.beside if event.metrics is not None else {}
    for name, score in beside.items():
        loss, accuracy, f1 = _figures(score)
        output.print_line(
            f"{name} ({score.examples} examples): loss {loss}, accuracy {accuracy}, macro-F1 {f1}"
        )


def _figures(found: "Score | Metrics | None") -> tuple[str, str, str]:
    if found is None:
        return figure(None, 4), figure(None, 4), figure(None, 4)
    return figure(found.loss, 4), figure(found.accuracy, 4), figure(found.macro_f1, 4)
