"""`flctl tasks`: which tasks there are here, and whether one is fit for a fleet."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from flctl.cli.options import HELP, Commands, Grouped, Json, State, Verbose, path, state_folder
from flctl.cli.status import DIGEST_SHOWN
from flctl.errors import FlctlError
from flctl.files import expect_path
from flctl.terminal.patience import waiting

if TYPE_CHECKING:
    from rich.text import Text

    from flctl.learning.catalogue import Listed
    from flctl.learning.checkup import Finding

app = typer.Typer(
    help="Which tasks are installed here, and whether one is fit for a fleet.",
    no_args_is_help=True,
    cls=Commands,
    rich_markup_mode=None,
    context_settings=HELP,
)
STYLES = {"ok": "green", "note": "yellow", "problem": "bold red", "skipped": "dim"}


@app.command(cls=Grouped, name="list")
def list_(state: State = None, json: Json = False, verbose: Verbose = False) -> None:
    """List the installed tasks: package, digest, whether an agent here enables them.

    An agent enables those that its --task names, or all; with --state DIR of an agent, those
    that it had at its last start.
    """
    from flctl.agent.state import saved_tasks
    from flctl.cli import logs
    from flctl.learning.catalogue import catalogue
    from flctl.terminal import output

    logs.set_up(verbose, quiet=True)
    folder = state_folder(state)
    agent = saved_tasks(folder)
    with _stdout_kept():
        found = catalogue(agent)
    if json:
        output.print_json([_plain(listed) for listed in found])
        return
    from rich.text import Text

    made = output.table(
        "task", "enabled", "digest", "package", "version", "class", "~", yields=("package",)
    )
    for listed in found:
        made.add_row(
            listed.task.name,
            Text("yes", style="green") if listed.enabled else Text("no", style="yellow"),
            listed.digest[:DIGEST_SHOWN] if listed.digest else "-",
            listed.task.package,
            listed.task.version,
            listed.task.ref,
            Text("broken, see below" if listed.problem else listed.note or "", style="yellow"),
        )
    output.show(made)
    for listed in found:
        if listed.problem:
            output.terminal().print(Text(f"broken: {listed.problem}", style="red"), soft_wrap=True)
    whose = "an agent that is started without --task"
    if agent is not None:
        whose = f"the agent of {folder} at its last start"
    output.print_line(f"\nEnabled: for {whose}. Look closer: flctl tasks check NAME")


@app.command(cls=Grouped)
def check(
    task: Annotated[
        str, typer.Argument(metavar="TASK", help="The name of an installed one, or module:Class.")
    ],
    data: Annotated[
        Path | None,
        typer.Option(
            parser=path,
            metavar="PATH",
            help="A file or folder as an agent would have.  [default: what ships with the task]",
        ),
    ] = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Try out everything that a fleet will ask of a task, before it does.

    Exit code 0: fit for a fleet; 1: it has a problem, and the line says what to do.
    """
    from flctl.cli import logs
    from flctl.fleet.checking import check_task
    from flctl.terminal import output
    from flctl.terminal.output import warn

    logs.set_up(verbose, quiet=True)
    if data is not None:
        expect_path(data, f"--data {data}")
    found: list[Finding] = []
    with _stdout_kept() as out:
        findings = check_task(task, None if data is None else data.absolute())
        while True:
            with waiting(f"trying out '{task}'", after_s=2.0):
                finding = next(findings, None)
            if finding is None:
                break
            found.append(finding)
            if not json:
                with contextlib.redirect_stdout(out):
                    output.terminal().print(_line(finding), soft_wrap=True)
    problems = [finding.check for finding in found if finding.verdict == "problem"]
    if json:
        output.print_json(
            {
                "task": task,
                "data": None if data is None else str(data),
                "ok": not problems,
                "digest": found[0].figures.get("digest"),
                "checks": found,
            }
        )
    if problems:
        what = f"task '{task}': not fit for a fleet yet: {', '.join(problems)}"
        if json:  # which has been printed
            warn(what)
            raise typer.Exit(1)
        raise FlctlError(what)
    if not json:
        output.print_line(f"task '{task}' is fit for a fleet")


@contextlib.contextmanager
def _stdout_kept() -> Iterator[TextIO]:
    """What a stranger's code prints goes to stderr; gives the stdout that is for results."""
    out = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        yield out


def _line(finding: "Finding") -> "Text":
    from rich.text import Text

    return Text.assemble(
        f"{finding.check:<11} ",
        (f"{finding.verdict:<8} ", STYLES[finding.verdict]),
        (finding.text, "dim" if finding.verdict == "skipped" else ""),
    )


def _plain(listed: "Listed") -> dict[str, Any]:
    """For JSON."""
    return {
        "name": listed.task.name,
        "class": listed.task.ref,
        "file": None if listed.file is None else str(listed.file),
        "package": listed.task.package,
        "version": listed.task.version,
        "digest": listed.digest,
        "enabled": listed.enabled,
        "problem": listed.problem,
        "note": listed.note,
    }
