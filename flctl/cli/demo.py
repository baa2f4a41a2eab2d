"""`flctl demo`: the whole of it on one machine, on the heartbeats that ship with flctl."""

import contextlib
import shlex
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from flctl.cli import logs
from flctl.cli.options import Verbose, again
from flctl.errors import FlctlError, UsageError

if TYPE_CHECKING:
    from flctl.fleet.comparison import Beside, Compared

PARTS = {
    "own": "own patients, later",
    "later": "all patients, later",
    "unseen": "unseen patients",
}
"""What was measured on, as `flctl.fleet.comparison` and the task name it."""
LEAD = 0.02
"""Of accuracy: less is no difference that a person should build on."""
WIDTH = 80
"""Of the text below the figures."""


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
    from flctl.cli.models import copy_model
    from flctl.core.history import RoundCommitted
    from flctl.core.stream import Published
    from flctl.extras import needs_torch
    from flctl.files import make_folder, writable
    from flctl.fleet.comparison import Comparison, beside
    from flctl.fleet.driving import drive_local
    from flctl.records.plots.comparison import draw
    from flctl.records.plots.style import needs_matplotlib
    from flctl.terminal.output import print_line, program, shown
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
    given = {"task": "ecg", "local": agents, "rounds": rounds, "seed": seed}
    federated: dict[int, Mapping[str, Any]] = {}
    watching = watcher(as_json=False, verbose=verbose)
    watching.expect(given)
    watching.again = again(shown(folder / "state"))

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
        with _patience("training the same with all data in one place, and by each agent alone"):
            central, alone = comparison.result("central"), comparison.result("local-only")
            by = beside(given, result.checkpoint)
    draw(curve, federated, central, alone, by, agents)
    _show(federated, central, alone, by, agents)
    evaluate = f"{program()} evaluate {shlex.quote(str(shown(model)))} --split unseen"
    print_line(f"\nLook at {shown(curve)}, then try: {evaluate}")


def _patience(doing: str) -> contextlib.AbstractContextManager[Any]:
    from flctl.terminal.output import terminal

    console = terminal()
    return console.status(f"{doing} …") if console.is_terminal else contextlib.nullcontext()


def _show(
    federated: Mapping[int, Mapping[str, Any]],
    central: "Compared",
    alone: "Compared",
    by: "Beside",
    agents: int,
) -> None:
    """Final figures of each way to train, and of none at all, with what they were measured on."""
    import msgspec

    from flctl import formats
    from flctl.fleet.comparison import OWN
    from flctl.terminal import output

    last = federated[max(federated)]
    ours = {last["part"]: last, **last.get("beside", {})}
    if by.own is not None:
        ours[OWN] = msgspec.to_builtins(by.own)
    rest = (msgspec.to_builtins(found) for found in (central.final, alone.final, by.always))
    ways = (ours, *rest)
    heads = ("federated", "one place", "alone", f"always {by.commonest}")
    made = output.table("", "", *(f">{head}" for head in heads))
    for part, words in PARTS.items():
        if all(part in way for way in ways):
            for key, name in (("accuracy", "accuracy"), ("macro_f1", "macro-F1")):
                cells = [formats.figure(way[part][key]) for way in ways]
                made.add_row(words if key == "accuracy" else "", name, *cells)
    output.print_line("")
    output.show(made)
    output.print_line("")
    for line in explained(alone, by, agents):
        output.print_line(line)


def explained(alone: "Compared", by: "Beside", agents: int) -> list[str]:
    """What stands in which row and column, and what the figures say and do not say."""
    from flctl import formats
    from flctl.fleet.comparison import OWN

    texts = [
        f"one place: all data together. alone: mean of {agents} agents, each after "
        f"{formats.counted(max(alone.curve), 'round')} on its own data. always {by.commonest}: "
        f"without a model, every beat is called {by.commonest}. own patients: those of each agent, "
        "mean of the agents. all patients: those of all agents."
    ]
    if by.own is not None and OWN in alone.final:
        ahead = alone.final[OWN].accuracy - by.own.accuracy
        how = "better" if ahead > LEAD else "as well" if ahead > -LEAD else ""
        texts.append(
            (f"An agent alone does {how} on its own patients. " if how else "")
            + "What federation brings is the patient of another agent, and the beat that an agent "
            "has seldom or never seen."
        )
    if "unseen" in by.classes:
        counts = ", ".join(f"{n} {name}" for name, n in by.classes["unseen"].items())
        people = formats.counted(by.groups.get("unseen", 0), "patient")
        texts.append(f"Unseen are {people} with {counts} beats: too few to rely on.")
    return [line for text in texts for line in textwrap.wrap(text, WIDTH)]
