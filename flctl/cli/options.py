"""Options that several commands share, and what their defaults are."""

from pathlib import Path
from typing import Annotated

import typer

State = Annotated[
    Path | None,
    typer.Option(
        "--state",
        envvar="FLCTL_STATE",
        metavar="DIR",
        help="Folder for keys and runs. [your account's state folder]",
        show_default=False,
        show_envvar=True,
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


class HelpInPanels(typer.core.TyperCommand):
    """A command whose help is grouped; only then is it worth the time to load rich."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **{**kwargs, "rich_markup_mode": "rich"})  # type: ignore[arg-type]
