"""The picture of what fires, and its line in the status."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.text import Text

from flctl.formats import counted, span
from flctl.terminal.output import table

if TYPE_CHECKING:
    from rich.console import RenderableType


def picture(found: Mapping[str, Any], options: str = "") -> "RenderableType":
    """`options` follow a suggested command."""
    lines = [
        Text(f"{each['name']} is muted for {span(each['left_s'])}", style="yellow")
        for each in found["muted"]
    ]
    for name in ("webhook", "command"):
        sink = found.get(name)
        if sink is not None and sink["failing"]:
            waiting = counted(sink["waiting"], "notice")
            why = f"the {name} has not accepted {waiting}, and is tried again: {sink['failing']}"
            lines.append(Text(why, style="red"))
    if not found["firing"]:
        return Group(Text("no alert is firing", style="green"), *lines)
    made = table(">id", "alert", "of", ">for", "", "~what", yields=("",))
    for alert in found["firing"]:
        quiet = [word for word in ("acknowledged", "muted") if alert[word]]
        made.add_row(
            str(alert["id"]), Text(alert["alert"], style="yellow" if quiet else "red"),
            alert["subject"], span(alert["for_s"]), ", ".join(quiet), alert["text"],
        )  # fmt: skip
    if any(not (alert["acknowledged"] or alert["muted"]) for alert in found["firing"]):
        lines.append(Text(f"to acknowledge one: flctl alerts ack ID{options}", style="dim"))
    return Group(made, *lines)


def firing(counts: Mapping[str, Any] | None, options: str = "") -> str:
    """One line about what fires; empty when nothing new does, or an older coordinator answers."""
    found = (counts or {}).get("firing")
    if not found:
        return ""
    each = ", ".join(f"{number} {kind}" for kind, number in sorted(found.items()))
    return f"{counted(sum(found.values()), 'alert')} firing: {each}; see flctl alerts{options}"
