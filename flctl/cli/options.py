"""Options that several commands share, and what their defaults are."""

import os
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core

if TYPE_CHECKING:
    from flctl.learning.origin import ReadAs

HELP = {"max_content_width": 100}


def path(text: str) -> Path:
    """Of an option: an empty one is a mistake, not the current folder."""
    if not text:
        raise typer.BadParameter("it is empty")
    return Path(text)


State = Annotated[
    Path | None,
    typer.Option(
        "--state",
        parser=path,
        envvar="FLCTL_STATE",
        metavar="DIR",
        help="Folder for keys and runs.  [default: your account's state folder]",
        show_default=False,
    ),
]
Context = Annotated[
    str | None,
    typer.Option(
        "--context",
        envvar="FLCTL_CONTEXT",
        metavar="NAME",
        help="Look at the far coordinator that 'flctl connect' saved under this name; local: at "
        "this machine only.  [default: the coordinator that runs on --state; else --state, for a "
        "RUN that it has; else the one that was connected; else --state]",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Log everything to stderr; tracebacks of faults.")
]
HEARTBEATS = "Heartbeats (docs/ecg.md)"
Lead = Annotated[
    str | None,
    typer.Option(
        "--lead",
        metavar="NAME|N",
        envvar="FLCTL_LEAD",
        help="Signal of WFDB records to read, by name or number.  [default: MLII, else II, else "
        "what is most like them]",
        rich_help_panel=HEARTBEATS,
        show_default=False,
    ),
]
Annotator = Annotated[
    str | None,
    typer.Option(
        "--annotator",
        metavar="NAME",
        envvar="FLCTL_ANNOTATOR",
        help="Suffix of the annotations of WFDB records.  [default: atr, else ecg, ari, qrsc, qrs]",
        rich_help_panel=HEARTBEATS,
        show_default=False,
    ),
]
RAt = Annotated[
    int | None,
    typer.Option(
        "--r-at",
        metavar="N",
        min=0,
        max=186,
        envvar="FLCTL_R_AT",
        help="Sample of each row of a CSV or .npz file, from 0, that the R peak stands at.  "
        "[default: found from the beats]",
        rich_help_panel=HEARTBEATS,
        show_default=False,
    ),
]


def reading_as(lead: str | None, annotator: str | None, r_at: int | None) -> "ReadAs":
    """What the three options say. Raises UsageError."""
    from flctl.learning.origin import read_as_of

    names = {"lead": "--lead", "annotator": "--annotator", "r_at": "--r-at"}
    return read_as_of({"lead": lead, "annotator": annotator, "r_at": r_at}, names)


def read_all_as(read_as: "ReadAs") -> None:
    """In this process and those that it starts."""
    from flctl.learning.origin import VARIABLES

    for key, value in read_as.given.items():
        os.environ[VARIABLES[key]] = str(value)


Run = Annotated[
    str, typer.Argument(metavar="RUN", help="Its name, or as much of it as makes it unique.")
]
OfTask = Annotated[
    str | None,
    typer.Option(
        "--task",
        metavar="module:Class",
        help="The run's task, where it is not an installed one.",
        show_default=False,
    ),
]


def state_folder(given: Path | None) -> Path:
    """The folder that --state or FLCTL_STATE names, absolute, else the platform's own."""
    if given is not None:
        return given.expanduser().absolute()
    import platformdirs

    return platformdirs.user_state_path("flctl")


def again(state: Path | None, context: str | None = None) -> str:
    """What follows a suggested command, so that it finds what this one has found."""
    options = ""
    if state is not None and os.environ.get("FLCTL_STATE") != str(state):
        options += f" --state {shlex.quote(str(state))}"
    if context is not None and os.environ.get("FLCTL_CONTEXT") != context:
        options += f" --context {shlex.quote(context)}"
    return options


class Commands(typer.core.TyperGroup):
    """A group whose help has the first sentence of each command, whole."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        found = ((name, self.get_command(ctx, name)) for name in self.list_commands(ctx))
        rows = [(n, c.get_short_help_str(limit=300)) for n, c in found if c and not c.hidden]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


class Grouped(typer.core.TyperCommand):
    """A command whose help lists its options by group, in plain text: rich would take longer
    to load than everything else a command needs."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                is_argument = param.param_type_name == "argument"
                name = "Arguments" if is_argument else getattr(param, "rich_help_panel", None)
                shown = re.sub(r" <\w+\[.+\]>$", "", record[0])  # Python's word for several
                groups.setdefault(name or "Options", []).append((shown, record[1]))
        # What every command has is of the least interest.
        for name in sorted(groups, key=lambda name: name == "Options"):
            with formatter.section(name):
                formatter.write_dl(groups[name])
