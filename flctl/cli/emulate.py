"""`flctl emulate`: a fleet in containers on this machine, with faults to inject."""

from typing import Annotated

from flctl.cli import completion
from flctl.cli.options import At, Here, Json, argument, command, flag, group, option
from flctl.cli.shards import Dealing
from flctl.fleet.emulation import faults
from flctl.fleet.emulation.engine import engine
from flctl.fleet.emulation.faults import Fault, again
from flctl.fleet.emulation.members import chosen, standing
from flctl.fleet.emulation.plan import EmulationPlan, fleet_name, profile_named, rate_bits
from flctl.fleet.emulation.said import followed, said
from flctl.fleet.emulation.usage import memory_bytes
from flctl.terminal.output import answer, print_line
from flctl.terminal.patience import progress

app = group("Run a fleet of emulated Pis in containers, and inject faults.")
IMAGES = "Images"
OWN = "flctl"
Fleet = Annotated[
    str, option("NAME", "Name of the fleet; several can run at once.", "--fleet", env="FLCTL_FLEET")
]
Names = Annotated[list[str], argument("NAME", "Agents, or 'coordinator'; see emulate ps.")]


@command(app, "flctl emulate up -n 5 --profile pi3", "flctl emulate up -n 8 --partition dirichlet")
def up(
    here: Here,
    dealing: Dealing,
    agents: int = option("N", "Number of agents.", "--agents", "-n", min=1, max=200, default=3),
    profile: str = option("pi3|pi4|pi5", "Processor time and memory of each agent.", default="pi4"),
    fleet: Fleet = OWN,
    port: int | None = option(
        "PORT",
        "Port of the coordinator on this machine.  [default: a free one from 7700 on]",
        min=1,
        max=65535,
        default=None,
    ),
    task: str = option(
        "NAME", "Task whose data are used.", complete=completion.tasks, default="ecg"
    ),
    accept_weights: bool = flag("Runs may begin with weights (train --from).", "--accept-weights"),
    image: str | None = option(
        "IMAGE",
        "Image of the agents.  [default: flctl-agent of this version]",
        env="FLCTL_AGENT_IMAGE",
        panel=IMAGES,
        default=None,
    ),
    coordinator_image: str | None = option(
        "IMAGE",
        "Image of the coordinator.  [default: flctl-coordinator of this version]",
        env="FLCTL_COORDINATOR_IMAGE",
        panel=IMAGES,
        default=None,
    ),
) -> None:
    """Start a coordinator and N agents, each with its shard of data.

    Repeat it with another N to grow or shrink the fleet; this also ends all faults. Other
    commands find the fleet with --context NAME. Ctrl-C restores what was there before.
    """
    from flctl.fleet.emulation.raising import raise_fleet
    from flctl.terminal.emulation import show_started

    images = {"image": image, "coordinator_image": coordinator_image}
    deal = dealing.into(agents)
    plan = EmulationPlan(
        fleet=fleet_name(fleet),
        agents=agents,
        profile=profile_named(profile),
        task=task,
        partition=deal.partition,
        alpha=deal.alpha,
        shard_seed=deal.seed,
        accept_weights=accept_weights,
        **{key: name for key, name in images.items() if name},
    )
    with progress() as tell, engine() as client:
        done = raise_fleet(client, plan, port, here.folder, tell)
    show_started(plan, done, At(here.state, plan.fleet).again)


@command(app, "flctl emulate ps")
def ps(fleet: Fleet = OWN, json: Json = False) -> None:
    """Show the containers of the fleet: state, faults, memory, shard."""
    from flctl.terminal.emulation import members_table, plain

    with engine() as client:
        found = standing(client, fleet_name(fleet))
        memory = memory_bytes(client, found.values())
    members = [{**plain(m), "memory_bytes": memory.get(m.name)} for m in found.values()]
    answer(members, json, members_table(found.values(), memory))


@command(app, "flctl emulate logs pi-01 -f", "flctl emulate logs --tail 20")
def logs(
    names: list[str] | None = argument("NAME", "Containers to show.  [default: all]", default=None),
    follow: bool = flag("Continue until Ctrl-C.", "--follow", "-f"),
    tail: int = option("N", "At most N lines of each container.", min=0, default=100),
    fleet: Fleet = OWN,
) -> None:
    """Print the logs of coordinator and agents, in order of time."""

    called = fleet_name(fleet)
    with engine() as client:
        there = chosen(client, called, names) if names else list(standing(client, called).values())
        width = max(len(member.name) for member in there)
        try:
            for name, line in (followed if follow else said)(client, there, tail):
                print_line(f"{name:{width}} | {line}" if len(there) > 1 else line)
        except KeyboardInterrupt:
            if not follow:
                raise


@command(app, "flctl emulate down")
def down(here: Here, fleet: Fleet = OWN) -> None:
    """Remove the fleet, including its keys, runs and checkpoints.

    To keep a model, export it first: flctl runs export RUN --format pt --context NAME
    """
    from flctl.fleet.emulation.leftovers import take_down

    called = fleet_name(fleet)
    with progress() as tell, engine() as client:
        tell(f"removing fleet {called}")
        removed = take_down(client, called, here.folder)
    print_line(f"fleet {called} is removed" if removed else f"there is no fleet {called}")


FAULTS = {
    "kill": "Kill a container at once, as a power cut does, until 'restart'.",
    "pause": "Freeze a container; it does not respond until 'unpause'.",
    "unpause": "Resume a container after 'pause'.",
    "restart": "Stop a container if it runs, and start it again.",
    "cut": "Drop all packets of a container until 'heal'.",
    "heal": "Reconnect a container at full speed, after 'cut' or 'slow'.",
}


def _add(name: str, help_: str) -> None:
    def fault(names: Names, fleet: Fleet = OWN) -> None:

        _inject(getattr(faults, name), names, fleet)

    fault.__doc__ = help_
    command(app, f"flctl emulate {name} pi-02", name=name)(fault)


for fault_name, fault_help in FAULTS.items():
    _add(fault_name, fault_help)


@command(app, "flctl emulate slow pi-02 --rate 256kbit")
def slow(
    names: Names,
    rate: str = option("RATE", "Rate in each direction: 256kbit, 1mbit, 1.5mbit.", default="1mbit"),
    fleet: Fleet = OWN,
) -> None:
    """Slow down a container's network until 'heal', 'cut' or 'restart'."""
    bits = rate_bits(rate)
    _inject(lambda client, called, member: faults.slow(client, called, member, bits), names, fleet)


def _inject(fault: Fault, names: list[str], fleet: str) -> None:

    called = fleet_name(fleet)
    with engine() as client, progress(lines=False) as tell:
        for member in chosen(client, called, names):
            tell(member.name)
            done = fault(client, called, member)
            back = f"; back with: {again(called, done.back, member)}" if done.back else ""
            print_line(f"{member.name} {done.said}{back}")
