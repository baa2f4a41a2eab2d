"""`flctl emulate`: a fleet in containers on this machine, and faults to try it with."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flctl.cli.options import HELP, Commands, Grouped, Json, State, again, state_folder

if TYPE_CHECKING:
    from flctl.fleet.emulation.faults import Fault

app = typer.Typer(
    help="A fleet of Pis in Docker containers on this machine, and faults to try it with.",
    no_args_is_help=True,
    cls=Commands,
    rich_markup_mode=None,
    context_settings=HELP,
)

DATA, IMAGES = "Data", "Images"

Fleet = Annotated[
    str,
    typer.Option(
        "--fleet",
        metavar="NAME",
        envvar="FLCTL_FLEET",
        help="Which fleet; several can run side by side.",
    ),
]
Names = Annotated[
    list[str], typer.Argument(metavar="NAME...", help="Agents, or 'coordinator': see emulate ps.")
]
OWN = "flctl"


@app.command(cls=Grouped)
def up(
    agents: Annotated[
        int, typer.Option("--agents", "-n", metavar="N", help="How many.", min=1, max=200)
    ] = 3,
    profile: Annotated[
        str,
        typer.Option(
            metavar="pi3|pi4|pi5", help="Each agent has the processor time and memory of this one."
        ),
    ] = "pi4",
    fleet: Fleet = OWN,
    port: Annotated[
        int | None,
        typer.Option(
            metavar="PORT",
            help="Of this machine, for the coordinator.  [default: a free one from 7700 on]",
            min=1,
            max=65535,
            show_default=False,
        ),
    ] = None,
    task: Annotated[
        str, typer.Option(metavar="NAME", help="Whose own data are dealt.", rich_help_panel=DATA)
    ] = "ecg",
    partition: Annotated[
        str,
        typer.Option(
            metavar="iid|label|dirichlet|size|record",
            help="How they are dealt, one shard to each agent.",
            rich_help_panel=DATA,
        ),
    ] = "iid",
    alpha: Annotated[
        float, typer.Option(help="For --partition dirichlet.", rich_help_panel=DATA, min=1e-6)
    ] = 0.5,
    shard_seed: Annotated[
        int, typer.Option(help="Deals them otherwise.", rich_help_panel=DATA, min=0)
    ] = 1,
    image: Annotated[
        str | None,
        typer.Option(
            metavar="IMAGE",
            envvar="FLCTL_AGENT_IMAGE",
            help="Of the agents.  [default: flctl-agent of this version]",
            rich_help_panel=IMAGES,
            show_default=False,
        ),
    ] = None,
    coordinator_image: Annotated[
        str | None,
        typer.Option(
            metavar="IMAGE",
            envvar="FLCTL_COORDINATOR_IMAGE",
            help="Of the coordinator.  [default: flctl-coordinator of this version]",
            rich_help_panel=IMAGES,
            show_default=False,
        ),
    ] = None,
    state: State = None,
) -> None:
    """Start a fleet: a coordinator and N agents, each with its shard of the data.

    Again with another N it grows or shrinks, and whatever fault is in force is taken away.
    Steer it with the other commands and --context NAME of the fleet. Ctrl-C leaves everything
    as it was before.
    """
    from flctl.fleet.emulation.engine import engine
    from flctl.fleet.emulation.plan import Plan, fleet_name, partition_named, profile_named
    from flctl.fleet.emulation.raising import raise_fleet

    images = {"image": image, "coordinator_image": coordinator_image}
    plan = Plan(
        fleet=fleet_name(fleet),
        agents=agents,
        profile=profile_named(profile),
        task=task,
        partition=partition_named(partition),
        alpha=alpha,
        shard_seed=shard_seed,
        **{key: name for key, name in images.items() if name},
    )
    with _progress() as tell, engine() as client:
        done = raise_fleet(client, plan, port, state_folder(state), tell)
    _show_up(plan, done, again(state, plan.fleet))


@app.command(cls=Grouped)
def ps(fleet: Fleet = OWN, json: Json = False) -> None:
    """Show every container of the fleet: its state, faults, memory, shard."""
    from flctl import formats
    from flctl.fleet.emulation.engine import engine
    from flctl.fleet.emulation.members import standing
    from flctl.fleet.emulation.plan import fleet_name
    from flctl.fleet.emulation.usage import memory_bytes
    from flctl.terminal import output

    with engine() as client:
        found = standing(client, fleet_name(fleet))
        memory = memory_bytes(client, found.values())
    if json:
        output.print_json(
            [{**_plain(m), "memory_bytes": memory.get(m.name)} for m in found.values()]
        )
        return
    made = output.table("name", "state", ">memory", "profile", ">shard", "address", "image")
    for member in found.values():
        traits = member.traits
        port = f"127.0.0.1:{traits['port']}" if "port" in traits else None
        made.add_row(
            member.name, _coloured(member.state), formats.size(memory.get(member.name)),
            traits.get("profile", "-"), traits.get("shard", "-"), port or member.address or "-",
            member.image,
        )  # fmt: skip
    output.show(made)


@app.command(cls=Grouped)
def logs(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME...]", help="Whose; without any, all.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until Ctrl-C.")] = False,
    tail: Annotated[
        int, typer.Option("--tail", metavar="N", help="At most so many lines of each.", min=0)
    ] = 100,
    fleet: Fleet = OWN,
) -> None:
    """Print what the coordinator and the agents have logged, in the order of time."""
    from flctl.fleet.emulation.engine import engine
    from flctl.fleet.emulation.members import chosen, standing
    from flctl.fleet.emulation.plan import fleet_name
    from flctl.fleet.emulation.said import followed, said
    from flctl.terminal.output import print_line

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
            raise typer.Exit(0) from None


@app.command(cls=Grouped)
def down(fleet: Fleet = OWN, state: State = None) -> None:
    """Remove the fleet with all that it has: keys, runs and checkpoints too.

    Save a model before, with: flctl runs export --context NAME
    """
    from flctl.fleet.emulation.engine import engine
    from flctl.fleet.emulation.leftovers import take_down
    from flctl.fleet.emulation.plan import fleet_name
    from flctl.terminal.output import print_line

    called = fleet_name(fleet)
    with _progress() as tell, engine() as client:
        tell(f"removing fleet {called}")
        removed = take_down(client, called, state_folder(state))
    print_line(f"fleet {called} is removed" if removed else f"there is no fleet {called}")


@app.command(cls=Grouped)
def kill(names: Names, fleet: Fleet = OWN) -> None:
    """Cut the power: no goodbye, and it stays off until 'restart'."""
    from flctl.fleet.emulation import faults

    _do(faults.kill, names, fleet)


@app.command(cls=Grouped)
def pause(names: Names, fleet: Fleet = OWN) -> None:
    """Make it hang: it is there and says nothing, until 'unpause'."""
    from flctl.fleet.emulation import faults

    _do(faults.pause, names, fleet)


@app.command(cls=Grouped)
def unpause(names: Names, fleet: Fleet = OWN) -> None:
    """Let it go on after 'pause'."""
    from flctl.fleet.emulation import faults

    _do(faults.unpause, names, fleet)


@app.command(cls=Grouped)
def restart(names: Names, fleet: Fleet = OWN) -> None:
    """Stop it in order if it runs, and start it: also the power back after 'kill'."""
    from flctl.fleet.emulation import faults

    _do(faults.restart, names, fleet)


@app.command(cls=Grouped)
def cut(names: Names, fleet: Fleet = OWN) -> None:
    """Pull the network cable, until 'heal': packets vanish, and nobody is told."""
    from flctl.fleet.emulation import faults

    _do(faults.cut, names, fleet)


@app.command(cls=Grouped)
def heal(names: Names, fleet: Fleet = OWN) -> None:
    """Back on the network, at full speed: after 'cut' and 'slow'."""
    from flctl.fleet.emulation import faults

    _do(faults.heal, names, fleet)


@app.command(cls=Grouped)
def slow(
    names: Names,
    rate: Annotated[
        str, typer.Option(metavar="RATE", help="Up and down each: 256kbit, 1mbit, 1.5mbit.")
    ] = "1mbit",
    fleet: Fleet = OWN,
) -> None:
    """Give it a slow connection, until 'heal', 'cut' or 'restart'."""
    from flctl.fleet.emulation import faults
    from flctl.fleet.emulation.plan import rate_bits

    bits = rate_bits(rate)
    _do(lambda client, called, member: faults.slow(client, called, member, bits), names, fleet)


def _do(fault: "Fault", names: list[str], fleet: str) -> None:
    """To each of them, with a line for each."""
    from flctl.fleet.emulation.engine import engine
    from flctl.fleet.emulation.faults import again
    from flctl.fleet.emulation.members import chosen
    from flctl.fleet.emulation.plan import fleet_name
    from flctl.terminal.output import print_line

    called = fleet_name(fleet)
    with engine() as client, _progress(lines=False) as tell:
        for member in chosen(client, called, names):
            tell(member.name)
            done = fault(client, called, member)
            back = f"; back with: {again(called, done.back, member)}" if done.back else ""
            print_line(f"{member.name} {done.said}{back}")


@contextlib.contextmanager
def _progress(lines: bool = True) -> Iterator[Callable[[str], None]]:
    """Tells what is being done: in place on a terminal, else as `lines` on stderr."""
    from flctl.terminal.output import terminal

    console = terminal(stderr=True)
    if console.is_terminal:
        with console.status("") as status:
            yield lambda text: status.update(f"{text} …")
        return
    last = ""

    def tell(text: str) -> None:
        nonlocal last
        if lines and text != last:
            last = text
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()

    yield tell


def _show_up(plan: Any, done: Any, options: str) -> None:
    from flctl.fleet.emulation.plan import of_fleet
    from flctl.formats import counted
    from flctl.terminal.output import print_line

    profile = plan.profile
    limits = f"{profile.name}: {profile.cores:g} cores, {profile.memory_mb} MiB each"
    print_line(f"fleet {plan.fleet}: {counted(plan.agents, 'agent')} ({limits})")
    for what in ("made", "replaced", "removed"):
        if names := sorted(getattr(done, what)):
            print_line(f"{what:12} {', '.join(names)}")
    print_line(f"coordinator  127.0.0.1:{done.port}")
    print_line(f"look         flctl status{options}")
    print_line(f"train        flctl train{options} --task {plan.task} --rounds 5")
    print_line(f"end          flctl emulate down{of_fleet(plan.fleet)}")


def _plain(member: Any) -> dict[str, Any]:
    from msgspec import structs

    return {"name": member.name, "state": member.state, **structs.asdict(member)}


def _coloured(state: str) -> Any:
    from rich.text import Text

    return Text(state, style="green" if state == "running" else "yellow")
