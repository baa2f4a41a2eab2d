"""`flctl demo`: the whole of it on one machine, on the heartbeats that ship with flctl."""

import contextlib
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flctl.cli import logs
from flctl.cli.options import Verbose, again
from flctl.errors import FlctlError, UsageError

if TYPE_CHECKING:
    from flctl.fleet.comparison import Compared

PARTS = {"later": "same patients, later", "unseen": "unseen patients"}


def demo(
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for the model, the picture and the run.")
    ] = Path("demo"),
    agents: Annotated[int, typer.Option(metavar="N", min=2, max=16, help="Local agents.")] = 4,
    rounds: Annotated[int, typer.Option(metavar="N", min=1)] = 20,
    seed: Annotated[int, typer.Option(metavar="N", min=0)] = 1,
    verbose: Verbose = False,
) -> None:
    """Train on real heartbeats over local agents, and compare.

    Each agent is a process that owns the beats of different patients of the MIT-BIH database
    and talks to the coordinator over encrypted sockets. Beside it the same is trained with
    all data in one place, and by each agent alone. DIR gets model.safetensors and curve.png.
    """
    from flctl.cli.curve import draw, needs_matplotlib
    from flctl.cli.models import copy_model, writable
    from flctl.cli.output import print_line, program, shown
    from flctl.cli.watching import watcher
    from flctl.files import make_folder
    from flctl.fleet.comparison import Comparison
    from flctl.fleet.driving import drive_local

    needs_matplotlib()
    folder = out.expanduser().absolute()
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--out {out}: is not a folder")
    make_folder(folder, "--out")
    model = writable(folder / "model.safetensors", "--out")
    curve = writable(folder / "curve.png", "--out")
    logs.set_up(verbose, quiet=True)
    given = {"task": "ecg", "local": agents, "rounds": rounds, "seed": seed}
    federated: dict[int, Mapping[str, Any]] = {}
    watching = watcher(as_json=False, verbose=verbose)
    watching.expect(given)
    watching.again = again(shown(folder / "state"))

    def on_event(event: dict[str, Any]) -> None:
        watching.on_event(event)
        if event["event"] == "round" and event.get("metrics"):
            federated[event["round"]] = event["metrics"]

    with Comparison(given, every=max(1, rounds // 15), rounds_alone=-(-rounds // 3)) as comparison:
        with watching:
            result = drive_local(folder / "state", given, "flctl demo", on_event)
        if result.state != "finished" or result.checkpoint is None or not federated:
            raise FlctlError(
                f"the demo's run {result.run} {result.state}: {result.reason}; "
                f"go on with: {watching.resume(result.run)}"
            )
        copy_model(result.checkpoint, model, "--out")
        with _patience("training the same with all data in one place, and by each agent alone"):
            central, alone = comparison.result("central"), comparison.result("local-only")
    draw(curve, federated, central, alone, agents)
    _show(federated, central, alone, agents)
    evaluate = f"{program()} evaluate {shlex.quote(str(shown(model)))} --split unseen"
    print_line(f"\nLook at {shown(curve)}, then try: {evaluate}")


def _patience(doing: str) -> contextlib.AbstractContextManager[Any]:
    from flctl.cli.output import terminal

    console = terminal()
    return console.status(f"{doing} …") if console.is_terminal else contextlib.nullcontext()


def _show(
    federated: Mapping[int, Mapping[str, Any]], central: "Compared", alone: "Compared", agents: int
) -> None:
    """Final figures of the three ways, on beats of known and of unseen patients."""
    import msgspec

    from flctl.cli import output

    last = federated[max(federated)]
    rounds_alone = output.counted(max(alone.curve), "round")
    ways: dict[str, Mapping[str, Any]] = {
        f"federated, {agents} agents": {last["part"]: last, **last.get("beside", {})},
        "all data in one place": msgspec.to_builtins(central.final),
        f"each agent alone, {rounds_alone} (mean)": msgspec.to_builtins(alone.final),
    }
    parts = [name for name in PARTS if name in central.final]
    columns = [c for name in parts for c in (f">{PARTS[name]}: accuracy", ">macro-F1")]
    made = output.table("", *columns)
    for way, figures in ways.items():
        cells = [figures[name][key] for name in parts for key in ("accuracy", "macro_f1")]
        made.add_row(way, *map(output.figure, cells))
    output.print_line("")
    output.show(made)
