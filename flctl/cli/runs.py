"""`flctl runs`: what has been trained, and with what result."""

from functools import partial
from pathlib import Path
from typing import Any

from flctl.cli.errors import fail
from flctl.cli.export import export
from flctl.cli.options import At, Head, Here, Json, OfTask, Run, command, flag, group, option, path
from flctl.formats import counted
from flctl.terminal import chains
from flctl.terminal.finding import connected, details, recorded, summaries
from flctl.terminal.output import answer, print_json, print_line, program, show, shown, warn
from flctl.values import named_paths

app = group("List, show, export, verify and replay runs.")


@command(app, "flctl runs list", "flctl runs list --json | jq '.[-1].run'", name="list")
def list_(at: At, json: Json = False) -> None:
    """List all runs, the newest last."""
    folder = at.folder
    with connected(folder, at.context, beside=folder / "runs") as runs:
        found = summaries(runs)
    if json:
        print_json(found)
    elif not found:
        missing = " (there is no such folder)" if runs.here and not folder.exists() else ""
        print_line(
            f"no run in {runs.where}{missing}; start one with: "
            f"{program()} train --task ecg --local 3{at.again}"
        )
    else:
        from flctl.terminal.runs import summaries_table

        show(summaries_table(found))


@command(app, "flctl runs show ecg-20261127-102328", name="show")
def show_run_(
    run: Run,
    at: At,
    everyone: bool = flag("All agents, not just ten.", "--all"),
    json: Json = False,
) -> None:
    """Show a run: its rounds, their figures and its agents."""
    from flctl.coordinator.store.runs import LocalRuns
    from flctl.core.history import History
    from flctl.terminal.runs import by_agents, show_run

    with connected(at.folder, at.context, run) as runs:
        found, events = details(runs, run)
        history = History.of(events)
        resumable = not isinstance(runs, LocalRuns) or found["kind"] != "fleet"
    if json:
        print_json({**found, **by_agents(history), "events": events})
    else:
        show_run(found, history, resumable, at.again, everyone)


@command(app, "flctl runs replay ecg-2026", "flctl runs replay ecg-2026 --data pi-01=beats.npz")
def replay(
    run: Run,
    here: Here,
    data: list[str] | None = option(
        "AGENT=PATH",
        "Copy of the data of this agent; needed for the agents of a fleet. Can be repeated.",
        default=None,
    ),
    task: OfTask = None,
    json: Json = False,
) -> None:
    """Train a run again and compare its models, byte for byte."""
    from flctl.coordinator.store.folder import RunFolder
    from flctl.coordinator.store.journal import chain_of
    from flctl.fleet.replay import Row, other_machine
    from flctl.fleet.replay import replay as replayed
    from flctl.terminal.checkpoints import expect_task

    sources = {name: Path(path) for name, path in named_paths(data or [], "--data", None).items()}
    folder = RunFolder.find(here.folder, run)
    chain = chain_of(folder.journal_path)
    if fault := chains.wrong(chain):
        warn(f"{folder.journal_path}: {fault}")

    def on_row(row: Row) -> None:
        if not json:
            verdict = "same" if row.same else f"DIFFERENT {row.why}".rstrip()
            print_line(f"round {row.round:4d}  {row.journal[:16]}  {verdict}")

    expect_task(folder, task)
    rows = replayed(folder, sources, on_row)
    same, elsewhere = rows[-1].same, other_machine(folder.history())
    keys = ("round", "journal", "replayed", "same", "why")
    result: dict[str, Any] = {
        "run": folder.name,
        "same": same,
        "other_machine": elsewhere,
        "chain": chain,
        "rounds": [{key: getattr(row, key) for key in keys} for row in rows],
    }
    if json:
        print_json(result)
    elif same:
        rounds = counted(len(rows) - 1, "round")
        print_line(f"run {folder.name}: {rounds} computed again, the same byte for byte")
    if not same:
        why = rows[-1].why or elsewhere or "its data, its code or its number of threads differ"
        fail(f"run {folder.name}: round {rows[-1].round} differs: {why}", json)


@command(app, "flctl runs verify ecg-20261127-102328")
def verify(run: Run, at: At, head: Head = None, json: Json = False) -> None:
    """Check that a run's journal was not tampered with.

    No line may have been changed, removed or added. The chain of the lines reveals a change. A
    chain that was computed again, and lines cut off at the end, are revealed by a head kept
    elsewhere: one from the coordinator's log, or the one that flctl train kept here while it
    watched the run.
    """
    from flctl.fleet import heads

    given = chains.given(head)
    folder = at.folder
    with connected(folder, at.context, run) as runs:
        name = str(runs.about(run)["run"])
        where, page = f"the journal of run {name}", partial(runs.journal, name)
        seen = heads.kept(folder, name)
        fault, _ = chains.verified(page, f"run {name}", where, given, seen, json)
    if fault:
        fail(fault, json)


@command(app, "flctl runs stop ecg-20261127-102328")
def stop(run: Run, at: At) -> None:
    """Stop a run of a coordinator; it can be resumed."""
    with connected(at.folder, at.context, run) as runs:
        stopped = runs.stop(run)
    resume = f"{program()} train --resume {stopped}{at.again}"
    print_line(f"run {stopped} stopped; resume with: {resume}")


@command(app, "flctl runs pause ecg-20261127-102328")
def pause(run: Run, at: At) -> None:
    """Pause a run of a coordinator after its open round."""
    with connected(at.folder, at.context, run) as runs:
        found = runs.pause(run)
    when = "is paused" if found.round is None else f"pauses after round {found.round}"
    resume = f"{program()} train --resume {found.run}{at.again}"
    print_line(f"run {found.run} {when}; resume with: {resume}")


command(app, "flctl runs export ecg-2026 --format pt", "flctl runs export ecg-2026 --format csv")(
    export
)


@command(app, "flctl runs plot ecg-2026 --out run.png")
def plot(
    run: Run,
    at: At,
    out: Path | None = option(
        "FILE", "The picture.  [default: RUN.png, in the current folder]", parser=path, default=None
    ),
    per_agent: bool = flag("Also loss, seconds and examples of each agent.", "--per-agent"),
    task: OfTask = None,
    json: Json = False,
) -> None:
    """Draw a run: its figures, times, agents and confusion.

    The figures of every part that was measured, the time and the agents of each round, and the
    confusion matrix of the last model.
    """
    from flctl.records.plots.run import class_names, draw
    from flctl.records.plots.style import needs_matplotlib, picture_path

    needs_matplotlib()
    with recorded(run, at.folder, at.context) as found:
        target = picture_path(out or Path(f"{found.name}.png"), "--out")
        draw(target, found, class_names(found, task), per_agent)
    result = {"run": found.name, "path": str(target), "rounds": found.history.round}
    answer(result, json, f"the picture of run {found.name} is in {shown(target)}")
