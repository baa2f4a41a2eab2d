"""How commands declare their options, and the options that several of them share."""

import inspect
import os
import shlex
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar, get_type_hints

import typer

from flctl.cli import completion
from flctl.cli.helping import Command, Commands
from flctl.errors import FlctlError

if TYPE_CHECKING:
    from flctl.learning.origin import ReadAs

HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
Function = TypeVar("Function", bound=Callable[..., None])
OWN_DATA = "the task's own: ecg brings them along, mnist downloads them"


def option(
    metavar: str | None,
    help: str,
    *names: str,
    env: str | None = None,
    panel: str | None = None,
    complete: Callable[..., list[str]] | None = None,
    default: Any = ...,
    **more: Any,
) -> Any:
    """An option as the help shows it: `metavar` is never the name of a Python type."""
    more = {"metavar": metavar, "envvar": env, "autocompletion": complete, **more}
    return typer.Option(default, *names, help=help, rich_help_panel=panel, **more)


def flag(help: str, *names: str, **more: Any) -> Any:
    return option(None, help, *names, default=False, **more)


def argument(metavar: str, help: str, complete: Any = None, default: Any = ..., **more: Any) -> Any:
    return typer.Argument(default, metavar=metavar, help=help, autocompletion=complete, **more)


def path(text: str) -> Path:
    """An empty option is a mistake, not the current folder."""
    if not text:
        raise typer.BadParameter("it is empty")
    from flctl.values import as_path

    return as_path(text)


def task_args(text: str) -> dict[str, Any]:
    """Raises UsageError."""
    from flctl.values import arguments

    return arguments(text, "--task-args")


def group(help: str) -> typer.Typer:
    return typer.Typer(
        help=help,
        no_args_is_help=True,
        cls=Commands,
        rich_markup_mode=None,
        context_settings=HELP,
        add_completion=False,
    )


def single() -> typer.Typer:
    """For a module whose commands are not a group."""
    return typer.Typer(rich_markup_mode=None, add_completion=False)


def command(
    app: typer.Typer, *examples: str, name: str | None = None, **settings: Any
) -> Callable[[Function], Function]:
    """Make a function a command of `app`; its help ends with `examples`.

    A parameter that is a NamedTuple stands for its fields: options that several commands share.
    """

    def register(function: Function) -> Function:
        app.command(
            name, cls=Command, epilog="\n".join(examples), context_settings={**HELP, **settings}
        )(_spread(function))
        return function

    return register


def _spread(function: Callable[..., None]) -> Callable[..., None]:
    signature = inspect.signature(function)
    hints = get_type_hints(function, include_extras=True)
    parts: dict[str, Any] = {}
    parameters = []
    for name, parameter in signature.parameters.items():
        kind = hints.get(name)
        if isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields"):
            parts[name] = kind
            defaults: dict[str, Any] = getattr(kind, "_field_defaults", {})
            for field, hint in get_type_hints(kind, include_extras=True).items():
                default = defaults.get(field, inspect.Parameter.empty)
                given = {"default": default, "annotation": hint}
                parameters.append(inspect.Parameter(field, parameter.KEYWORD_ONLY, **given))
        else:
            given = {"annotation": kind, "kind": parameter.KEYWORD_ONLY}
            parameters.append(parameter.replace(**given))

    @wraps(function)
    def call(**values: Any) -> None:
        for name, kind in parts.items():
            values[name] = kind(**{field: values.pop(field) for field in kind._fields})
        try:
            function(**values)
        except FlctlError as error:
            from flctl.terminal.finding import suggested

            again = next((at.again for at in values.values() if isinstance(at, At)), "")
            error.args = (suggested(str(error), again),)
            raise

    call.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {p.name: p.annotation for p in parameters}
    return call


State = Annotated[
    Path | None,
    option(
        "DIR",
        "Folder for keys and runs.  [default: your account's state folder]",
        "--state",
        env="FLCTL_STATE",
        parser=path,
        show_default=False,
    ),
]
Context = Annotated[
    str | None,
    option(
        "NAME",
        "Use the remote coordinator that 'flctl connect' saved under this name, or 'local' for "
        "this machine only.  [default: the coordinator running on --state; for a RUN stored in "
        "--state, that folder; then the connected coordinator; then --state]",
        "--context",
        env="FLCTL_CONTEXT",
        show_default=False,
        complete=completion.contexts,
    ),
]
Json = Annotated[bool, option(None, "Print JSON.", "--json")]
Verbose = Annotated[
    bool, option(None, "Log everything to stderr, with tracebacks.", "--verbose", "-v")
]
Run = Annotated[
    str, argument("RUN", "Name of the run, how it begins, or its last part.", completion.runs)
]
Head = Annotated[
    str | None,
    option("HASH", "Head that was kept elsewhere: the lines up to it must be unchanged."),
]
OfTask = Annotated[
    str | None,
    option(
        "MODULE:CLASS",
        "The run's task, if it is not an installed one.",
        "--task",
        show_default=False,
        complete=completion.tasks,
    ),
]
Task = Annotated[
    str | None,
    option(
        "NAME",
        "Name of an installed task, or MODULE:CLASS.  [default: from the file]",
        "--task",
        show_default=False,
        complete=completion.tasks,
    ),
]
Device = Annotated[str, option("auto|cpu|cuda", "Device to compute on.", "--device")]
Private = Annotated[
    Path | None,
    option(
        "PATH",
        "Tensors that the model of an agent has for itself: own/private/RUN of its state folder.",
        "--private",
        parser=path,
    ),
]
Checkpoint = Annotated[Path, argument("CHECKPOINT", "A .safetensors file.", parser=path)]


class At(NamedTuple):
    """The state folder of this machine, or a coordinator to ask."""

    state: State = None
    context: Context = None

    @property
    def folder(self) -> Path:
        """The one that --state or FLCTL_STATE names, absolute, else the platform's own."""
        if self.state is not None:
            return self.state.expanduser().absolute()
        import platformdirs

        return platformdirs.user_state_path("flctl")

    @property
    def again(self) -> str:
        """Options that a suggested command needs to find the same."""
        given = {"state": self.state, "context": self.context}
        return "".join(
            f" --{name} {shlex.quote(str(value))}"
            for name, value in given.items()
            if value is not None and os.environ.get(f"FLCTL_{name.upper()}") != str(value)
        )


class Here(NamedTuple):
    state: State = None

    @property
    def folder(self) -> Path:
        return At(self.state).folder

    @property
    def again(self) -> str:
        return At(self.state).again


TaskArgs = Annotated[
    Any,
    option(
        "NAME=VALUE,…", "Arguments of the task (documentation: Built-in tasks).", "--task-args",
        show_default=False, parser=task_args,
    ),
]  # fmt: skip


HEARTBEATS = "Heartbeats"


class Heartbeats(NamedTuple):
    """How files with heartbeats are read."""

    lead: str | None = option(
        "NAME|N",
        "Signal of WFDB records to read, by name or number.  [default: MLII, else II, else "
        "the most similar one]",
        env="FLCTL_LEAD",
        panel=HEARTBEATS,
        show_default=False,
        default=None,
    )
    annotator: str | None = option(
        "NAME",
        "Suffix of the annotation files of WFDB records.  [default: atr, else ecg, ari, qrsc, qrs]",
        env="FLCTL_ANNOTATOR",
        panel=HEARTBEATS,
        show_default=False,
        default=None,
    )
    r_at: int | None = option(
        "N",
        "Position of the R peak in each row of a CSV or .npz file, counted from 0.  "
        "[default: detected]",
        env="FLCTL_R_AT",
        panel=HEARTBEATS,
        min=0,
        max=186,
        default=None,
    )

    @property
    def read_as(self) -> "ReadAs":
        """Raises UsageError."""
        from flctl.learning.origin import read_as_of

        names = {"lead": "--lead", "annotator": "--annotator", "r_at": "--r-at"}
        return read_as_of(self._asdict(), names)

    def apply(self) -> None:
        """To this process and those that it starts. Raises UsageError."""
        from flctl.learning.origin import VARIABLES

        for key, value in self.read_as.given.items():
            os.environ[VARIABLES[key]] = str(value)
