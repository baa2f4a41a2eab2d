"""--where: agents chosen by their labels."""

from typing import Annotated

from flctl.cli import completion
from flctl.cli.options import argument, option

Where = Annotated[
    list[str] | None,
    option(
        "KEY=VALUE",
        "Only agents with this label: site=ward-3, site!=ward-3, or site for any; can be repeated, "
        "and all must hold.",
        "--where",
        complete=completion.labels,
        show_default=False,
    ),
]
Agents = Annotated[
    list[str] | None, argument("NAME", "Agents, as listed by 'flctl status'.", completion.agents)
]
