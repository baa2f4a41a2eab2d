"""Carries out `flctl demo`; its figures, and what they mean."""

import shlex
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from flctl.core.events import RoundCommitted
from flctl.core.metrics import label
from flctl.core.spread import mean
from flctl.core.stream import Published
from flctl.errors import FlctlError, UsageError
from flctl.files import make_folder
from flctl.fleet.comparison import OWN, Beside, Compared, Comparison, beside
from flctl.fleet.driving import drive_local
from flctl.formats import counted, figure
from flctl.outputs import writable
from flctl.records.plots.comparison import draw
from flctl.terminal import output, personal
from flctl.terminal.agents import in_brackets, show_agents
from flctl.terminal.checkpoints import copy_model
from flctl.terminal.patience import waiting
from flctl.terminal.watching import watcher

PARTS = {"own": "own patients, later", "later": "all patients, later", "unseen": "unseen patients"}
"""Names of the measured parts in `flctl.fleet.comparison` and the task."""
KEYS = ("accuracy", "macro_f1", "ece")
LEAD = 0.02
"""Difference in accuracy below which a comparison is not reliable."""
WIDTH = 80
"""Columns of the text below the figures."""


def carry_out(out: Path, agents: int, rounds: int, seed: int, verbose: bool) -> None:
    """Train, compare, and leave the model and the picture in `out`. Raises FlctlError."""
    folder = out.expanduser().absolute()
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--out {out}: is not a folder")
    make_folder(folder, "--out")
    model = writable(folder / "model.safetensors", "--out")
    curve = writable(folder / "curve.png", "--out")
    given = {"task": "ecg", "local": agents, "rounds": rounds, "seed": seed, "personalise": True}
    federated: dict[int, Mapping[str, Any]] = {}
    watching = watcher(as_json=False, verbose=verbose)
    watching.expect(given)
    state = folder / "state"
    watching.again = f" --state {shlex.quote(str(output.shown(state)))}"

    def on_event(told: Published) -> None:
        watching.on_event(told)
        if isinstance(told.event, RoundCommitted) and told.event.metrics is not None:
            federated[told.event.round] = msgspec.to_builtins(told.event.metrics)

    with Comparison(given, every=max(1, rounds // 15), rounds_alone=-(-rounds // 3)) as comparison:
        with watching:
            result = drive_local(state, given, "flctl demo", on_event)
        if result.state != "finished" or result.checkpoint is None or not federated:
            raise FlctlError(
                f"the demo's run {result.run} {result.state}: {result.reason}; "
                f"resume with: {watching.resume(result.run)}"
            )
        copy_model(result.checkpoint, model, "--out")
        with waiting("training the same with all data in one place, and by each agent alone"):
            central, alone = comparison.result("central"), comparison.result("local-only")
            by = beside(given, result.checkpoint)
    draw(curve, federated, central, alone, by, agents)
    show(federated, central, alone, by, agents)
    output.print_line("\nA model of its own for each agent:")
    personal.show(watching.story.personal, watching.story.without)
    evaluate = f"{output.program()} evaluate {shlex.quote(str(output.shown(model)))} --split unseen"
    output.print_line(f"\nLook at {output.shown(curve)}, then try: {evaluate}")


def show(
    federated: Mapping[int, Mapping[str, Any]],
    central: Compared,
    alone: Compared,
    by: Beside,
    agents: int,
) -> None:
    """Final figures of each way to train, and of none at all, with what they were measured on."""
    last = federated[max(federated)]
    ours = {last["part"]: last, **last.get("beside", {})}
    if by.own:
        ours[OWN] = msgspec.to_builtins(mean(list(by.own.values())))
    rest = (msgspec.to_builtins(found) for found in (central.final, alone.final, by.always))
    ways = (ours, *rest)
    heads = ("federated", "one place", "alone", f"always {by.commonest}")
    made = output.table("", "", *(f">{head}" for head in heads))
    for part, words in PARTS.items():
        if all(part in way for way in ways):
            for key in [key for key in KEYS if key in ours[part]["values"]]:
                cells = [figure(way[part]["values"].get(key)) for way in ways]
                made.add_row(words if key == KEYS[0] else "", label(key), *cells)
    output.print_line("")
    output.show(made)
    if by.own and alone.agents:
        output.print_line("")
        _show_each(alone, by)
    output.print_line("")
    for line in explained(alone, by, agents):
        output.print_line(line)


def _show_each(alone: Compared, by: Beside) -> None:
    """Accuracy of each agent's two models: on its own patients, on those of all, on unseen ones."""
    key = KEYS[0]
    heads = {
        "federated": "own: federated", OWN: "own: alone", "later": "all: alone",
        "unseen": "unseen: alone",
    }  # fmt: skip
    rows = {
        agent: {"federated": found.values[key]}
        | {part: each.values[key] for part, each in alone.agents.get(agent, {}).items()}
        for agent, found in by.own.items()
    }
    constants = {a: {"federated": found.constant[key]} for a, found in by.own.items()}
    show_agents(label(key), rows, heads, by="federated", constants=constants)
    output.print_line(in_brackets("class"))


def explained(alone: Compared, by: Beside, agents: int) -> list[str]:
    """Explanation of the table's rows and columns, and of what the figures do and do not show."""
    texts = [
        f"one place: all data together. alone: mean of {counted(agents, 'agent')}, each after "
        f"{counted(max(alone.curve), 'round')} on its own data. always {by.commonest}: "
        f"without a model, every beat is called {by.commonest}. own patients: those of each agent, "
        "mean of the agents. all patients: those of all agents. ECE: how far the probabilities are "
        "from the share of hits."
    ]
    if by.own and OWN in alone.final:
        federated = mean(list(by.own.values()))
        ahead = alone.final[OWN].values["accuracy"] - federated.values["accuracy"]
        how = "better" if ahead > LEAD else "as well" if ahead > -LEAD else ""
        texts.append(
            (f"An agent alone does {how} on its own patients. " if how else "")
            + "What federation brings is the patient of another agent, and the beat that an agent "
            "has seldom or never seen."
        )
    if "unseen" in by.classes:
        counts = ", ".join(f"{n} {name}" for name, n in by.classes["unseen"].items())
        people = counted(by.groups.get("unseen", 0), "patient")
        texts.append(f"Unseen are {people} with {counts} beats: too few to rely on.")
    return [line for text in texts for line in textwrap.wrap(text, WIDTH)]
