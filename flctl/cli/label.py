"""`flctl label`: facts about agents, by which runs and commands choose them."""

from typing import Annotated

from flctl.cli import completion
from flctl.cli.options import At, Json, argument, command, flag, option, single
from flctl.cli.where import Where

app = single()
Words = Annotated[
    list[str] | None,
    argument("NAME|KEY=VALUE|KEY-", "Agents; labels to set, or to remove.", completion.agents),
]


@command(
    app, "flctl label pi-01 site=ward-3 model=pi4", "flctl label pi-01 pi-02 site=ward-4 slow-"
)
def label(
    at: At,
    words: Words = None,
    where: Where = None,
    remove: list[str] | None = option("KEY", "Same as KEY-.", "--remove", default=None),
    reset: bool = flag("Forget changes made here: an agent's own labels count again.", "--reset"),
    json: Json = False,
) -> None:
    """Set, remove or show labels of agents.

    KEY=VALUE sets a label, KEY- removes it. Labels stay until they are changed here, and count
    more than those that an agent brings (flctl agent --label). A change needs an admin key.
    """
    from flctl.labels import changes
    from flctl.terminal import labels
    from flctl.terminal.finding import coordinator

    said = [word for word in words or () if "=" in word or word.endswith("-")]
    names = [word for word in words or () if word not in said]
    changed = changes([*said, *(f"{key}-" for key in remove or ())], "label", may_remove=True)
    with coordinator(at.folder, at.context) as console:
        labels.label(console, labels.chosen(console, names, where), changed, reset, json)
