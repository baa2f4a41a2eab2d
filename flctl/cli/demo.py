"""`flctl demo`: a whole run on one machine, with the heartbeats that come with flctl."""

from pathlib import Path

from flctl.cli.options import Verbose, command, option, single
from flctl.extras import needs_torch
from flctl.terminal import logs

app = single()


@command(app, "flctl demo", "flctl demo --agents 8 --rounds 10 --out demo8")
def demo(
    out: Path = option(
        "DIR", "Folder for the model, the picture and the run.", default=Path("demo")
    ),
    agents: int = option("N", "Number of local agents.", min=2, max=16, default=4),
    rounds: int = option("N", "Number of training rounds.", min=1, default=20),
    seed: int = option("N", "Seed of all random choices.", min=0, default=1),
    verbose: Verbose = False,
) -> None:
    """Train on real heartbeats over local agents, and compare.

    Each agent is a process with the beats of different patients of the MIT-BIH database, and is
    connected to the coordinator over encrypted sockets. For comparison, the same model is trained
    with all data in one place, and by each agent alone. The results are DIR/model.safetensors
    and DIR/curve.png.
    """
    from flctl.records.plots.style import needs_matplotlib
    from flctl.terminal.demo import carry_out

    needs_matplotlib()
    needs_torch("the demo")
    logs.set_up(verbose, quiet=True)
    carry_out(out, agents, rounds, seed, verbose)
