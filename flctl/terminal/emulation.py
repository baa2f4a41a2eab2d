"""An emulated fleet on the terminal."""

from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import structs
from rich.text import Text

from flctl.fleet.emulation.plan import of_fleet
from flctl.formats import counted, size
from flctl.terminal.output import print_line, table
from flctl.terminal.tables import Table


def members_table(members: Iterable[Any], memory: Mapping[str, int]) -> Table:
    made = table("name", "state", ">memory", "profile", ">shard", "address", "image")
    for member in members:
        traits = member.traits
        port = f"127.0.0.1:{traits['port']}" if "port" in traits else None
        state = Text(member.state, style="green" if member.state == "running" else "yellow")
        made.add_row(
            member.name, state, size(memory.get(member.name)), traits.get("profile", "-"),
            traits.get("shard", "-"), port or member.address or "-", member.image,
        )  # fmt: skip
    return made


def show_started(plan: Any, done: Any, options: str) -> None:
    profile = plan.profile
    limits = f"{profile.name}: {profile.cores:g} cores, {profile.memory_mb} MiB each"
    print_line(f"fleet {plan.fleet}: {counted(plan.agents, 'agent')} ({limits})")
    for what in ("made", "replaced", "removed"):
        if names := sorted(getattr(done, what)):
            print_line(f"{what:12} {', '.join(names)}")
    print_line(
        f"coordinator  127.0.0.1:{done.port}\n"
        f"look         flctl status{options}\n"
        f"train        flctl train{options} --task {plan.task} --rounds 5\n"
        f"end          flctl emulate down{of_fleet(plan.fleet)}"
    )


def plain(member: Any) -> dict[str, Any]:
    return {"name": member.name, "state": member.state, **structs.asdict(member)}
