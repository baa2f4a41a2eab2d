"""`flctl context`: the far coordinators that `flctl connect` has saved."""

from typing import Annotated

import typer

from flctl.cli.options import HELP, Commands, Grouped, Json, State, again, state_folder
from flctl.errors import StateError

app = typer.Typer(
    help="The far coordinators that 'flctl connect' has saved.",
    no_args_is_help=True,
    cls=Commands,
    rich_markup_mode=None,
    context_settings=HELP,
)
Name = Annotated[str, typer.Argument(metavar="NAME", help="As 'flctl context list' shows it.")]


@app.command(cls=Grouped, name="list")
def list_(state: State = None, json: Json = False) -> None:
    """List them; commands without --context take the one that is marked."""
    from flctl.fleet.context import context_names, current_context, load_context
    from flctl.terminal import output
    from flctl.transport.keys import shown

    folder = state_folder(state)
    current, rows = current_context(folder), []
    for name in context_names(folder):
        try:
            saved, fault = load_context(folder, name), ""
        except StateError:
            saved, fault = None, "damaged: connect again, or remove it"
        row = {"name": name, "current": name == current, "coordinator": None, "server_key": None}
        if saved is not None:
            row |= {"coordinator": saved.coordinator, "server_key": shown(saved.server_key)}
        rows.append({**row, "fault": fault})
    if json:
        output.print_json(rows)
        return
    if not rows:
        output.print_line(
            f"no context is saved; make one with: flctl connect HOST:PORT{again(state)}"
        )
        return
    made = output.table(
        "context", "in use", "coordinator", "server key", "~", yields=("server key",)
    )
    for row in rows:
        made.add_row(
            str(row["name"]), "yes" if row["current"] else "", str(row["coordinator"] or "-"),
            str(row["server_key"] or "-"), str(row["fault"]),
        )  # fmt: skip
    output.show(made)


@app.command(cls=Grouped)
def use(name: Name, state: State = None) -> None:
    """Let commands without --context take this one."""
    from flctl.fleet.context import use_context
    from flctl.terminal.output import print_line

    use_context(state_folder(state), name)
    print_line(f"{name} is in use")


@app.command(cls=Grouped)
def rm(name: Name, state: State = None) -> None:
    """Remove a context; the key file that it was made with stays, and so does the enrolled key."""
    from flctl.errors import UsageError
    from flctl.fleet.context import context_names, forget_context
    from flctl.terminal.output import print_line

    folder = state_folder(state)
    if name not in context_names(folder):
        raise UsageError(f"there is no context '{name}'; see: flctl context list{again(state)}")
    forget_context(folder, name)
    print_line(f"{name} is removed")
