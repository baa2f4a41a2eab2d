"""`flctl runs`: what has been trained, and how it went."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flctl.cli import chains
from flctl.cli.export import export
from flctl.cli.finding import details, far, summaries
from flctl.cli.options import (
    HELP,
    Commands,
    Context,
    Grouped,
    Json,
    OfTask,
    Run,
    State,
    again,
    state_folder,
)
from flctl.cli.plot import plot
from flctl.cli.values import named_paths
from flctl.core.history import BEST, History
from flctl.errors import FlctlError, UsageError
from flctl.terminal.output import task_option, warn

if TYPE_CHECKING:
    from flctl.core.history import RoundCommitted, Score
    from flctl.wire.messages import Metrics

app = typer.Typer(
    help="What has been trained, and how it went.",
    no_args_is_help=True,
    cls=Commands,
    rich_markup_mode=None,
    context_settings=HELP,
)
FIGURES = ("loss", "accuracy", "macro_f1")
STYLES = {"running": "cyan", "finished": "green", "paused": "yellow", "stopped": "yellow"}


@app.command(cls=Grouped, name="list")
def list_(state: State = None, context: Context = None, json: Json = False) -> None:
    """List all runs, the newest last."""
    from flctl import formats
    from flctl.terminal import output

    folder = state_folder(state)
    with far(folder, context, beside=folder / "runs") as console:
        where = folder if console is None else console.where
        found = summaries(folder) if console is None else console.runs()
    if json:
        output.print_json(found)
        return
    if not found:
        missing = " (there is no such folder)" if console is None and not folder.exists() else ""
        output.print_line(
            f"no run in {where}{missing}; start one with: "
            f"{output.program()} train --task ecg --local 3{again(state)}"
        )
        return
    from rich.text import Text

    made = output.table(
        "run", "state", ">round", ">loss", ">accuracy", ">macro-F1", "started", "~",
        yields=("started", "macro-F1"),
    )  # fmt: skip
    for run in found:
        made.add_row(
            run["run"],
            Text(run["state"], style=STYLES.get(run["state"], "red")),
            f"{run['round']}/{run['rounds']}",
            *(formats.figure((run["metrics"] or {}).get(name), 4) for name in FIGURES),
            _when(run["started"]),
            Text(run["reason"], style="dim"),
        )
    output.show(made)


@app.command(cls=Grouped)
def show(run: Run, state: State = None, context: Context = None, json: Json = False) -> None:
    """Show a run: its rounds, their figures, who took part."""
    from flctl import formats
    from flctl.terminal import output

    folder = state_folder(state)
    with far(folder, context, run) as console:
        found, events = details(folder, run, console)
        can_go_on = console is not None or found["kind"] != "fleet"
    if json:
        output.print_json({**found, "events": events})
        return
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
    if said := chains.shown(found.get("chain")):
        output.print_line(f"{'journal':<11} {said}")
    at_fault = "begin a new run" in (found["reason"] or "")
    if can_go_on and found["state"] in ("paused", "stopped") and not at_fault:
        options = task_option(found["task"]) + again(state, context)
        resume = f"{output.program()} train --resume {found['run']}{options}"
        output.print_line(f"{'go on with':<11} {resume}")
    saved = () if compression == "none" else (">up", ">fewer", ">error")
    made = output.table(
        ">round", ">loss", ">accuracy", ">macro-F1", ">took", *saved, ">agents", "~",
        yields=("error", "fewer", "up", "took"),
    )  # fmt: skip
    history = History.of(events)
    rounds = history.rounds
    for event in rounds:
        made.add_row(
            str(event.round),
            *_figures(event.metrics),
            formats.span(event.seconds),
            *(_saved(event) if saved else ()),
            str(len(event.participants)),
            f"without {', '.join(event.missing)}" if event.missing else "",
        )
    if (best := history.best) is not None:
        loss, accuracy, f1 = _figures(best.metrics)
        output.print_line(
            f"{'best':<11} round {best.round} ({BEST}): loss {loss}, accuracy {accuracy}, "
            f"macro-F1 {f1}"
        )
    if rounds:
        output.print_line("")
        output.show(made)
        _show_last(rounds[-1])


@app.command(cls=Grouped)
def replay(
    run: Run,
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="AGENT=PATH",
            help="A copy of the data of this agent; needed for agents of their own.",
        ),
    ] = None,
    task: OfTask = None,
    state: State = None,
    json: Json = False,
) -> None:
    """Compute a run again and compare its models, byte for byte."""
    from flctl import formats
    from flctl.cli.checkpoints import expect_task
    from flctl.coordinator.store.folder import RunFolder
    from flctl.coordinator.store.journal import chain_of
    from flctl.fleet.replay import Row, other_machine
    from flctl.fleet.replay import replay as replayed
    from flctl.terminal import output

    sources = {name: Path(path) for name, path in named_paths(data or [], "--data", None).items()}
    folder = RunFolder.find(state_folder(state), run)
    chain = chain_of(folder.journal_path)
    if said := chains.wrong(chain):
        warn(f"{folder.journal_path}: {said}")

    def told(row: Row) -> None:
        if not json:
            verdict = "same" if row.same else f"DIFFERENT {row.why}".rstrip()
            output.print_line(f"round {row.round:4d}  {row.journal[:16]}  {verdict}")

    expect_task(folder, task)
    rows = replayed(folder, sources, told)
    same, elsewhere = rows[-1].same, other_machine(folder.history())
    if json:
        told_rows = [
            {"round": r.round, "journal": r.journal, "replayed": r.replayed, "same": r.same,
             "why": r.why}
            for r in rows
        ]  # fmt: skip
        output.print_json(
            {
                "run": folder.name,
                "same": same,
                "other_machine": elsewhere,
                "chain": chain,
                "rounds": told_rows,
            }
        )
    elif same:
        output.print_line(
            f"run {folder.name}: {formats.counted(len(rows) - 1, 'round')} computed again, "
            "the same byte for byte"
        )
    if not same:
        why = rows[-1].why or elsewhere or "its data, its code or its number of threads differ"
        different = f"run {folder.name}: round {rows[-1].round} comes out different: {why}"
        if json:  # which has been printed
            warn(different)
            raise typer.Exit(1)
        raise FlctlError(different)


@app.command(cls=Grouped)
def verify(
    run: Run,
    head: chains.Head = None,
    state: State = None,
    context: Context = None,
    json: Json = False,
) -> None:
    """Check that no line of a run's journal was changed, removed or added since.

    The chain of the lines finds a change. A chain that was computed again, and lines cut off
    at the end, are found by a head from another place: one from the coordinator's log, or the
    one that flctl train has kept here while it watched the run.
    """
    from flctl.coordinator.store.folder import RunFolder
    from flctl.fleet import heads, pages

    kept = chains.given(head)
    folder = state_folder(state)
    with far(folder, context, run) as console:
        if console is None:
            found = RunFolder.find(folder, run)
            name, where, page = (
                found.name,
                str(found.journal_path),
                pages.local(found.journal_path),
            )
        else:
            name = str(console.about(run)["run"])
            where, page = f"the journal of run {name}", partial(console.journal, name)
        seen = heads.kept(folder, name)
        verdict = pages.verify(page, where, *chains.known(kept, seen))
    chains.tell(verdict, f"run {name}", where, kept, seen, json)


@app.command(cls=Grouped)
def stop(run: Run, state: State = None, context: Context = None) -> None:
    """Stop a coordinator's run; it can be resumed."""
    from flctl.coordinator.store.folder import RunFolder
    from flctl.terminal.output import print_line, program

    folder = state_folder(state)
    with far(folder, context, run) as console:
        if console is None:
            found = RunFolder.find(folder, run)
            if found.driven:
                raise UsageError(
                    f"run {found.name} belongs to a 'flctl train' on this machine: stop that"
                )
            raise UsageError(f"run {found.name} is not in progress")
        stopped = console.stop(run)
    resume = f"{program()} train --resume {stopped}{again(state, context)}"
    print_line(f"run {stopped} stopped; go on with: {resume}")


for command in (export, plot):
    app.command(cls=Grouped)(command)


def _saved(event: "RoundCommitted") -> tuple[str, str, str]:
    """Bytes of a round's updates, how many times fewer they are, and the mean relative error."""
    from flctl.formats import figure, size

    parts = event.participants.values()
    up = sum(part.bytes_up for part in parts)
    error = sum(part.compression_error for part in parts) / max(1, len(parts))
    return size(up), f"{event.size * len(parts) / up:.1f} ×" if up else "-", figure(error)


def _show_last(event: "RoundCommitted") -> None:
    """Who did what in the last round, and the figures beside the main ones."""
    from flctl import formats
    from flctl.terminal import output

    made = output.table(
        f"round {event.round}", ">examples", ">batches", ">loss", ">took", ">bytes up",
        yields=("bytes up", "batches"),
    )  # fmt: skip
    for agent, part in event.participants.items():
        made.add_row(
            agent,
            str(part.examples),
            str(part.batches),
            formats.figure(part.loss, 4),
            formats.span(part.seconds),
            formats.size(part.bytes_up or None),
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
    from flctl.formats import figure

    if found is None:
        return figure(None, 4), figure(None, 4), figure(None, 4)
    return figure(found.loss, 4), figure(found.accuracy, 4), figure(found.macro_f1, 4)


def _when(seconds: float) -> str:
    import time

    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
