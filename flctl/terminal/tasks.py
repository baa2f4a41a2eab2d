"""Installed tasks, and what was found out about one."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from flctl.learning.catalogue import Listed
from flctl.terminal import output
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


def show_finding(finding: "Finding") -> None:
    line = Text.assemble(
        f"{finding.check:<11} ",
        (f"{finding.verdict:<8} ", STYLES[finding.verdict]),
        (finding.text, "dim" if finding.verdict == "skipped" else ""),
    )
    output.terminal().print(line, soft_wrap=True)
