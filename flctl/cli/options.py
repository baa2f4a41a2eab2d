"""Options that several commands share, and what their defaults are."""

from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

HELP = {"max_content_width": 100}

State = Annotated[
    Path | None,
    typer.Option(
        "--state",
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
        help="Steer the far coordinator that 'flctl connect' saved under this name.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Log everything to stderr; tracebacks of faults.")
]
Run = Annotated[
    str, typer.Argument(metavar="RUN", help="Its name, or as much of it as makes it unique.")
]


def state_folder(given: Path | None) -> Path:
    """The folder that --state or FLCTL_STATE names, absolute, else the platform's own."""
    if given is not None:
        return given.expanduser().absolute()
    import platformdirs

    return platformdirs.user_state_path("flctl")


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
                groups.setdefault(name or "Options", []).append(record)
        # What every command has is of the least interest.
        for name in sorted(groups, key=lambda name: name == "Options"):
            with formatter.section(name):
                formatter.write_dl(groups[name])
