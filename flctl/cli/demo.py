"""`flctl demo`: a whole run on one machine, with the heartbeats that come with flctl."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flctl.cli.options import Here, Verbose, command, option, single
from flctl.errors import FlctlError, UsageError
from flctl.extras import needs_torch
from flctl.files import make_folder
from flctl.outputs import writable
from flctl.terminal import logs
from flctl.terminal.output import print_line, program, shown
from flctl.terminal.patience import waiting

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
    import msgspec

    from flctl.core.events import RoundCommitted
    from flctl.core.stream import Published
    from flctl.fleet.comparison import Comparison, beside
    from flctl.fleet.driving import drive_local
    from flctl.records.plots.comparison import draw
    from flctl.records.plots.style import needs_matplotlib
    from flctl.terminal.checkpoints import copy_model
    from flctl.terminal.demo import show
    from flctl.terminal.personal import show as show_own
    from flctl.terminal.watching import watcher

    needs_matplotlib()
    needs_torch("the demo")
    folder = out.expanduser().absolute()
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--out {out}: is not a folder")
    make_folder(folder, "--out")
    model = writable(folder / "model.safetensors", "--out")
    curve = writable(folder / "curve.png", "--out")
    logs.set_up(verbose, quiet=True)
    given = {"task": "ecg", "local": agents, "rounds": rounds, "seed": seed, "personalise": True}
    federated: dict[int, Mapping[str, Any]] = {}
    watching = watcher(as_json=False, verbose=verbose)
    watching.expect(given)
    watching.again = Here(shown(folder / "state")).again

    def on_event(told: Published) -> None:
        watching.on_event(told)
        if isinstance(told.event, RoundCommitted) and told.event.metrics is not None:
            federated[told.event.round] = msgspec.to_builtins(told.event.metrics)

    with Comparison(given, every=max(1, rounds // 15), rounds_alone=-(-rounds // 3)) as comparison:
        with watching:
            result = drive_local(folder / "state", given, "flctl demo", on_event)
        if result.state != "finished" or result.checkpoint is None or not federated:
            raise FlctlError(
                f"the demo's run {result.run} {result.state}: {result.reason}; "
                f"go on with: {watching.resume(result.run)}"
            )
        copy_model(result.checkpoint, model, "--out")
        with waiting("training the same with all data in one place, and by each agent alone"):
            central, alone = comparison.result("central"), comparison.result("local-only")
            by = beside(given, result.checkpoint)
    draw(curve, federated, central, alone, by, agents)
    show(federated, central, alone, by, agents)
    print_line("\nA model of its own for each agent (docs/personalise.md):")
    show_own(watching.story.personal, watching.story.without)
    evaluate = f"{program()} evaluate {shlex.quote(str(shown(model)))} --split unseen"
    print_line(f"\nLook at {shown(curve)}, then try: {evaluate}")
