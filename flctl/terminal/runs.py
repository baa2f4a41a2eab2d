"""Runs on the terminal: the list, and one run round by round."""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.text import Text

from flctl.core.history import History, why_no_best
from flctl.core.metrics import label, labels
from flctl.formats import counted, few, figure, size, span
from flctl.terminal import chains, output
from flctl.terminal.agents import SHOWN, document, show_measured, show_parts, some_of
from flctl.terminal.tables import Table

if TYPE_CHECKING:
    from flctl.core.events import RoundCommitted, Score
    from flctl.wire.messages import Metrics

STYLES = {"running": "cyan", "finished": "green", "paused": "yellow", "stopped": "yellow"}


def summaries_table(found: Iterable[Mapping[str, Any]]) -> Table:
    runs = [(run, (run["metrics"] or {}).get("values", {})) for run in found]
    names = list(dict.fromkeys(name for _, values in runs for name in values))
    made = output.table(
        "run", "state", ">round", *(f">{label(name)}" for name in names), "started", "~",
        yields=("started", *map(label, reversed(names[1:]))),
    )  # fmt: skip
    for run, values in runs:
        made.add_row(
            run["run"],
            Text(run["state"], style=STYLES.get(run["state"], "red")),
            f"{run['round']}/{run['rounds']}",
            *(figure(values.get(name), 4) for name in names),
            time.strftime("%Y-%m-%d %H:%M", time.localtime(run["started"])),
            Text(run["reason"], style="dim"),
        )
    return made


def show_run(
    found: Mapping[str, Any],
    history: History,
    resumable: bool,
    options: str,
    everyone: bool = False,
) -> None:
    """`resumable`: by a command on this machine, which takes `options` to find the run. Of many
    agents some, unless `everyone` is wanted."""
    settings = found["settings"]
    compression, strategy = settings.get("compression", "none"), settings.get("strategy", "fedavg")
    given = "".join(f" {key}={value}" for key, value in settings.get("strategy_args", {}).items())
    for name in ("run", "task", "kind", "state", "reason", "checkpoint"):
        if found[name] and name == "reason":
            long = output.table("", "")
            long.add_row(f"{name:<10}", found[name])
            output.show(long)
        elif found[name]:  # a path to copy stays one line
            output.print_line(f"{name:<11} {found[name]}")
    if strategy != "fedavg":
        output.print_line(f"{'strategy':<11} {strategy}{given}")
    if compression != "none":
        output.print_line(f"{'compression':<11} {compression}")
    if history.started is not None and (begun := history.started.begun) is not None:
        part = f", {begun.tensors} of {begun.of} tensors" if begun.tensors < begun.of else ""
        output.print_line(f"{'begun with':<11} {begun.source}{part} (sha256 {begun.digest[:16]})")
    if chain := found.get("chain"):  # a coordinator of an older version says nothing about it
        fault = chains.wrong(chain)
        what = fault or counted(chain["lines"], "chained line")
        output.print_line(f"{'journal':<11} {what}")
        if not fault:  # a head to copy, too
            output.print_line(f"{'head':<11} {chain['head']}")
    at_fault = "begin a new run" in (found["reason"] or "")
    if resumable and found["state"] in ("paused", "stopped") and not at_fault:
        task = output.task_option(found["task"])
        resume = f"{output.program()} train --resume {found['run']}{task}{options}"
        output.print_line(f"{'resume with':<11} {resume}")
    _show_best(found, history)
    if history.rounds and (score := history.rounds[-1].metrics) is not None:
        output.print_line(f"{'figures':<11} on {score.part}, by {score.source}")
    if history.rounds:
        output.print_line("")
        output.show(_rounds(history.rounds, compression != "none"))
        _show_lost(history.rounds)
        _show_last(history, everyone)
        _show_figures(history, everyone)
        _show_unmeasured(history, settings.get("evaluate"), found["rounds"])
    _show_own(history, f"{output.program()} personalise {found['run']}{options}")


def _show_best(found: Mapping[str, Any], history: History) -> None:
    if (best := history.best) is not None and (score := best.metrics) is not None:
        text = f"round {best.round} ({score.rule}: {figure(score.chosen, 4)})"
        output.print_line(f"{'best':<11} {text}")
        if file := found.get("best"):
            output.print_line(f"{'':<11} {file['checkpoint']}")
    elif any(event.metrics and event.metrics.chosen is not None for event in history.rounds):
        why = why_no_best(event.metrics for event in history.rounds)
        output.print_line(f"{'best':<11} none: {why}")


def _show_own(history: History, again: str) -> None:
    """What a model of its own gives each agent, if they have done that."""
    if history.personal or history.without:
        from flctl.terminal.personal import show

        output.print_line("")
        show(history.personal, history.without, again)


def by_agents(history: History) -> dict[str, Any]:
    """Figures of each agent on its own data after the last round, and their spread, for JSON."""
    score, started = history.rounds[-1].metrics if history.rounds else None, history.started
    if score is None or started is None or not score.by_agent:
        return {}
    return {"by_agent": document(score.by_agent, started.measures, started.groups)}


def _rounds(rounds: "Sequence[RoundCommitted]", compressed: bool) -> Table:
    scores = [event.metrics for event in rounds]
    names = labels(scores)
    chosen = [">validation"] if any(map(_on_validation, scores)) else []
    made = output.table(
        ">round", *(f">{text}" for text in names.values()), *chosen, ">took",
        *((">up", ">fewer", ">error") if compressed else ()), ">agents", "~",
        yields=("validation", "error", "fewer", "up", "took"),
    )  # fmt: skip
    for event in rounds:
        made.add_row(
            str(event.round),
            *_figures(event.metrics, names),
            *(figure(_on_validation(event.metrics), 4) for _ in chosen),
            span(event.seconds),
            *(_saved(event) if compressed else ()),
            str(len(event.participants)),
            f"without {', '.join(event.missing)}" if event.missing else "",
        )
    return made


def _show_lost(rounds: "Sequence[RoundCommitted]") -> None:
    for event in rounds:
        for agent, part in event.participants.items():
            if part.private_lost:
                output.print_line(f"{agent} lost its private tensors before round {event.round}")


def _saved(event: "RoundCommitted") -> tuple[str, str, str]:
    """Bytes of a round's updates, how many times fewer they are, and the mean relative error."""
    parts = event.participants.values()
    up = sum(part.bytes_up for part in parts)
    error = sum(part.compression_error for part in parts) / max(1, len(parts))
    return size(up), f"{event.size * len(parts) / up:.1f} ×" if up else "-", figure(error)


def _show_last(history: History, everyone: bool) -> None:
    """Who did what in the last round; of many agents, those that took longest."""
    event = history.rounds[-1]
    groups = history.started.groups if history.started is not None else {}
    made = output.table(
        f"round {event.round}", ">examples", ">batches", ">loss", ">took", ">bytes up",
        *["records"] * bool(groups), yields=("bytes up", "batches", "records"),
    )  # fmt: skip
    people = event.participants
    order = sorted(people, key=lambda agent: -people[agent].seconds)[:SHOWN]
    for agent, part in people.items():
        if not everyone and agent not in order:
            continue
        made.add_row(
            agent,
            str(part.examples),
            str(part.batches),
            figure(part.loss, 4),
            span(part.seconds),
            size(part.bytes_up or None),
            *[some_of(groups.get(agent, ()))] * bool(groups),
        )
    output.print_line("")
    output.show(made)
    if not everyone and (left := len(people) - len(order)):
        output.print_line(f"and {counted(left, 'agent')} that took less time; --all shows all")
    for agent, part in event.participants.items():
        if part.broken:
            what = counted(part.broken, "example")
            output.print_line(f"{agent} left out {what} that cannot be read: its log names them")


def _show_figures(history: History, everyone: bool) -> None:
    """Figures of the last model on each part of the data, and on what each agent holds out."""
    event, started = history.rounds[-1], history.started
    score = event.metrics
    if score is None or started is None:
        return
    parts = {} if score.source == "agents" else score.beside
    output.print_line("")
    show_parts(f"round {event.round}", {score.part: score, **parts}, started.measures.says)
    if score.by_agent:
        output.print_line("")
        title = "each on its own"
        show_measured(title, score.by_agent, started.measures, everyone, started.groups)


def _show_unmeasured(history: History, evaluate: str | None, rounds: int) -> None:
    """Why agents have no figures of their own."""
    event = history.rounds[-1]
    if event.metrics is None:
        return
    measured = event.metrics.by_agent.keys()
    missing = event.participants.keys() - measured
    if evaluate == "coordinator":
        output.print_line("agents measure nothing of their own with --evaluate coordinator")
    elif not measured and history.round < rounds:
        output.print_line("each agent measures its own test data after the last round")
    elif missing:
        output.print_line(f"no test data of their own, or too few: {few(missing)}")


def _on_validation(score: "Score | None") -> float | None:
    """The figure that the best round is chosen by, unless that is the table's own."""
    return score.chosen if score is not None and score.chosen_on != score.part else None


def _figures(found: "Metrics | None", names: "Iterable[str]") -> list[str]:
    values = found.values if found is not None else {}
    return [figure(values.get(name), 4) for name in names]
