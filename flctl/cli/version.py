"""`flctl version`."""

from flctl.cli.options import Json, command, single
from flctl.terminal.output import answer

app = single()


@command(app, "flctl version", "flctl version --json | jq -r .commit")
def version(json: Json = False) -> None:
    """Show the version, its commit, and what it works with.

    Agents and coordinators work together if they have the same protocol; a run can be resumed by
    a flctl with its schema.
    """
    from flctl.terminal.versions import about, in_words

    found = about()
    answer(found, json, in_words(found))
