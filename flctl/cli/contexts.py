"""`flctl context`: the remote coordinators that `flctl connect` has saved."""

from typing import Annotated

from flctl.cli import completion
from flctl.cli.options import Here, Json, argument, command, group
from flctl.errors import UsageError
from flctl.terminal import output
from flctl.terminal.output import print_line

app = group("List and choose the coordinators saved by 'flctl connect'.")
Name = Annotated[str, argument("NAME", "As listed by 'flctl context list'.", completion.contexts)]


@command(app, "flctl context list", name="list")
def list_(here: Here, json: Json = False) -> None:
    """List the saved contexts and which one is in use."""
    from flctl.fleet.context import saved_contexts

    rows = saved_contexts(here.folder)
    made = output.table(
        "context", "in use", "coordinator", "server key", "~", yields=("server key",)
    )
    for row in rows:
        made.add_row(
            str(row["name"]), "yes" if row["current"] else "", str(row["coordinator"] or "-"),
            str(row["server_key"] or "-"), str(row["fault"]),
        )  # fmt: skip
    none = f"no context is saved; make one with: flctl connect HOST:PORT{here.again}"
    output.answer(rows, json, made if rows else none)


@command(app, "flctl context use lab")
def use(name: Name, here: Here) -> None:
    """Use this context for commands without --context."""
    from flctl.fleet.context import use_context

    use_context(here.folder, name)
    print_line(f"{name} is in use")


@command(app, "flctl context rm lab")
def rm(name: Name, here: Here) -> None:
    """Remove a context; the key file and the enrolled key stay."""
    from flctl.fleet.context import context_names, forget_context

    if name not in context_names(here.folder):
        raise UsageError(f"there is no context '{name}'; see: flctl context list{here.again}")
    forget_context(here.folder, name)
    print_line(f"{name} is removed")
