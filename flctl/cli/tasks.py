"""`flctl tasks`: which tasks are installed, and whether one is fit for a fleet."""

from pathlib import Path
from typing import Annotated

from flctl.cli import completion
from flctl.cli.errors import fail
from flctl.cli.options import (
    Here,
    Json,
    TaskArgs,
    Verbose,
    argument,
    command,
    group,
    option,
    path,
)
from flctl.files import expect_path
from flctl.terminal import logs, output

app = group("List the installed tasks, and check one for a fleet.")


@command(app, "flctl tasks list", name="list")
def list_(here: Here, json: Json = False, verbose: Verbose = False) -> None:
    """List the installed tasks, and which of them an agent enables.

    Each has its package and its digest. An agent enables all tasks, or those named with its
    --task; with --state DIR of an agent, those that it enabled at its last start.
    """
    from flctl.agent.state import saved_tasks
    from flctl.learning.catalogue import catalogue
    from flctl.terminal.tasks import show_tasks, stdout_kept

    logs.set_up(verbose, quiet=True)
    agent = saved_tasks(here.folder)
    with stdout_kept():
        found = catalogue(agent)
    if json:
        output.print_json([listed.plain() for listed in found])
        return
    show_tasks(found)
    whose = "an agent that is started without --task"
    if agent is not None:
        whose = f"the agent of {here.folder} at its last start"
    output.print_line(f"\nEnabled: for {whose}. Examine one: flctl tasks check NAME")


@command(app, "flctl tasks check ecg", "flctl tasks check mypackage.tasks:Machines --data m.csv")
def check(
    task: Annotated[
        str, argument("TASK", "Name of an installed task, or MODULE:CLASS.", completion.tasks)
    ],
    data: Path | None = option(
        "PATH",
        "File or folder as an agent would have.  [default: the data of the task itself]",
        parser=path,
        default=None,
    ),
    args: TaskArgs = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Check that a task has everything that a fleet needs.

    Exit code 0: fit for a fleet; 1: it has a problem, and the line says how to solve it.
    """
    from flctl.terminal.tasks import findings_shown

    logs.set_up(verbose, quiet=True)
    if data is not None:
        expect_path(data, f"--data {data}")
    found = findings_shown(task, None if data is None else data.absolute(), args or {}, json)
    problems = [finding.check for finding in found if finding.verdict == "problem"]
    if json:
        about = {"task": task, "data": None if data is None else str(data), "ok": not problems}
        output.print_json({**about, "digest": found[0].figures.get("digest"), "checks": found})
    if problems:
        fail(f"task '{task}': not fit for a fleet yet: {', '.join(problems)}", json)
    if not json:
        but = next(
            (f", but here {f.figures['no_best']}" for f in found if "no_best" in f.figures), ""
        )
        output.print_line(f"task '{task}' is fit for a fleet{but}")
