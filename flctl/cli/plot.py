"""`flctl runs plot`: the picture of a run."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flctl.cli.options import Context, Json, OfTask, Run, State, path
from flctl.errors import FlctlError

if TYPE_CHECKING:
    from flctl.records.recorded import RecordedRun


def plot(
    run: Run,
    out: Annotated[
        Path | None,
        typer.Option(
            parser=path,
            metavar="PNG",
            help="[default: named after the run, in the current folder]",
            show_default=False,
        ),
    ] = None,
    per_agent: Annotated[
        bool,
        typer.Option("--per-agent", help="Each agent's loss, seconds and examples too."),
    ] = False,
    task: OfTask = None,
    state: State = None,
    context: Context = None,
    json: Json = False,
) -> None:
    """Draw a run: its figures, times and agents, and confusion.

    Loss, accuracy and macro-F1 of every part that was tested, how long each round took and who
    took part in it, and what the last model took for what.
    """
    from flctl.cli.finding import recorded
    from flctl.records.plots.run import draw
    from flctl.records.plots.style import needs_matplotlib, picture_path
    from flctl.terminal.output import print_json, print_line, shown

    needs_matplotlib()
    with recorded(run, state, context) as found:
        target = picture_path(out or Path(f"{found.name}.png"), "--out")
        draw(target, found, _classes(found, task), per_agent)
    if json:
        print_json({"run": found.name, "path": str(target), "rounds": found.history.round})
        return
    print_line(f"the picture of run {found.name} is in {shown(target)}")


def _classes(found: "RecordedRun", given: str | None) -> tuple[str, ...]:
    """Their names where the task is `given` or installed here, else their numbers."""
    score = found.rounds[-1].metrics
    count = len(score.confusion) if score is not None else 0
    if count:
        with contextlib.suppress(FlctlError, ModuleNotFoundError):  # without torch no task loads
            from flctl.learning.registry import task_to_load
            from flctl.learning.task import load_task

            names = tuple(load_task(task_to_load(given, found.task, found.name)).classes)
            if len(names) == count:
                return names
    return tuple(map(str, range(count)))
