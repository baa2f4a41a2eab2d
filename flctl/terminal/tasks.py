"""Installed tasks, and what was found out about one."""

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from rich.text import Text

from flctl.learning.catalogue import Listed
from flctl.terminal import output
from flctl.terminal.patience import waiting
from flctl.terminal.status import DIGEST_SHOWN

if TYPE_CHECKING:
    from flctl.learning.checkup import Finding

STYLES = {"ok": "green", "note": "yellow", "problem": "bold red", "skipped": "dim"}


def show_tasks(found: Sequence[Listed]) -> None:
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


def findings_shown(
    task: str, data: Path | None, args: Mapping[str, Any], json: bool
) -> list["Finding"]:
    """What `check_task` finds, each shown at once unless `json`."""
    from flctl.fleet.checking import check_task

    found: list[Finding] = []
    with stdout_kept() as out:
        findings = check_task(task, data, args)
        while True:
            with waiting(f"checking '{task}'", after_s=2.0):
                finding = next(findings, None)
            if finding is None:
                return found
            found.append(finding)
            if not json:
                with contextlib.redirect_stdout(out):
                    show_finding(finding)


@contextlib.contextmanager
def stdout_kept() -> Iterator[TextIO]:
    """What the code of a task prints goes to stderr; yields the stdout for results."""
    out = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        yield out


def show_finding(finding: "Finding") -> None:
    line = Text.assemble(
        f"{finding.check:<11} ",
        (f"{finding.verdict:<8} ", STYLES[finding.verdict]),
        (finding.text, "dim" if finding.verdict == "skipped" else ""),
    )
    output.terminal().print(line, soft_wrap=True)
