"""What a model of its own gives an agent: the bundled heartbeats, one agent for each patient.

    .venv/bin/python benchmarks/personal.py
    .venv/bin/python benchmarks/personal.py --what few --seeds 1

full     each agent has all of its labelled beats: the run's model, its own fine-tuned one, and one
         that it trains alone for as many rounds
private  the same data, but the two last layers never leave an agent: each has its own (FedPer)
few      as full, with its first 100 labelled beats
new      the patients 116 and 205, which took no part in the run, with their first 200 beats: its
         own model, and one that is trained on these from nothing

Every figure is the mean over the agents of what each measures on its own later beats, and the mean
over the seeds. Which round, which epoch and which model: the agents' validation beats choose, never
the later ones. A model that is trained alone is the last one, or that which these choose (chosen).
Prints a JSON line for each seed, then the table. It takes about ten minutes.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from msgspec.structs import replace

from flctl.coordinator.store.folder import RunFolder
from flctl.core.metrics import metrics_of
from flctl.core.personal import personal_training
from flctl.core.randomness import Seeding
from flctl.core.spread import mean
from flctl.fleet.clients import Clients
from flctl.fleet.driving import drive_virtual
from flctl.learning.baseline import local_only
from flctl.learning.ecg import Ecg
from flctl.learning.evaluation import measured
from flctl.learning.personal import Data, Way, personalise
from flctl.learning.state import load_state
from flctl.learning.task import Task, task_of
from flctl.settings import RunSettings
from flctl.wire.messages import Metrics

TRAIN, LATER, UNSEEN = 0, 1, 2
FEW, NEW = 100, 200
PATIENTS = 16
WHAT = ("full", "private", "few", "new")
Rows = dict[str, Metrics]
"""By how the model was made."""


class OwnHead(Ecg):
    """Each agent has the two layers behind the convolutions for itself."""

    name = "ecg-own-head"
    private = ("head.*",)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--what", nargs="+", choices=WHAT, default=WHAT)
    parser.add_argument("--seeds", type=int, nargs="+", default=(1, 2, 3))
    parser.add_argument("--set", nargs="*", default=(), metavar="KEY=VALUE", help="of the run")
    options = parser.parse_args()
    torch.set_num_threads(1)
    more = {key: json.loads(value) for key, value in (pair.split("=") for pair in options.set)}
    found: dict[str, list[Rows]] = {}
    for seed in options.seeds:
        with tempfile.TemporaryDirectory(prefix="flctl-personal-") as folder:
            for what, rows in measure(Path(folder), options.what, seed, more):
                found.setdefault(what, []).append(rows)
                plain = {how: row.values for how, row in rows.items()}
                print(json.dumps({"seed": seed, "what": what, **plain}), flush=True)
    for line in table(found):
        print(line)


def table(found: Mapping[str, list[Rows]]) -> Iterable[str]:
    yield f"{'':9}{'model':22}{'accuracy':>10}{'macro-F1':>10}"
    for what, seeds in found.items():
        for how in seeds[0]:
            figures = (
                statistics.fmean(rows[how].values[name] for rows in seeds)
                for name in ("accuracy", "macro_f1")
            )
            yield f"{what:9}{how:22}" + "".join(f"{figure:10.4f}" for figure in figures)


def measure(
    folder: Path, wanted: Iterable[str], seed: int, more: Mapping[str, Any]
) -> Iterable[tuple[str, Rows]]:
    given = {"task": "ecg", "virtual": PATIENTS, "rounds": 30, "seed": seed,
             "evaluate": "agents", "personalise": True, **more}  # fmt: skip
    if {"full", "new"} & {*wanted}:
        run = trained(folder / "full", given)
        settings, task = run.settings(), task_of(run.settings())
        if "full" in wanted:
            yield "full", {**figures(run), **alone(task, settings)}
        if "new" in wanted:
            data = beats(folder / "new.npz", {UNSEEN: NEW})
            yield "new", newcomers(task, settings, run, data)
    if "private" in wanted:
        task = f"{Path(__file__).stem}:{OwnHead.__name__}"
        run = trained(folder / "private", {**given, "task": task, "personalise": False})
        best = run.history().best
        assert best is not None and best.metrics is not None
        yield "private", {"two private layers": mean(list(best.metrics.beside.values()))}
    if "few" in wanted:
        data = beats(folder / "few.npz", {TRAIN: FEW})
        run = trained(folder / "few", {**given, "data": str(data)})
        yield "few", {**figures(run), **alone(task_of(run.settings()), run.settings())}


def beats(path: Path, first: Mapping[int, int]) -> Path:
    """The bundled beats, of which each patient has labelled that many of a split first."""
    with (files("flctl.learning") / "data" / "ecg_demo.npz").open("rb") as file:
        arrays = dict(np.load(file))
    split, record = arrays["split"], arrays["record"]
    keep = np.zeros(len(split), bool)
    for each in np.unique(record):
        for part, most in first.items():
            rows = np.flatnonzero((record == each) & (split == part))
            keep[rows[:most]] = True
            if part == UNSEEN:
                split[rows], keep[rows] = LATER, True
                split[rows[:most]] = TRAIN
    if TRAIN in first:
        keep |= split == LATER
    kept = {name: array[keep] for name, array in arrays.items() if array.shape[:1] == keep.shape}
    np.savez(path, **kept, r_at=np.array(62))
    return path


def trained(state: Path, given: dict[str, Any]) -> RunFolder:
    result = drive_virtual(state, given, "the benchmark", lambda _: None)
    assert result.state == "finished", result.reason
    return RunFolder.find(state, result.run)


def figures(run: RunFolder) -> Rows:
    """Of the run's model and of the own ones, as the run's journal has them."""
    personal = run.history().personal.values()
    shared = [event.shared["test"] for event in personal]
    used = [event.used("test") for event in personal]
    return {"the run's": mean(shared), "fine-tuned": mean([each for each in used if each])}


def alone(task: Task, settings: RunSettings) -> Rows:
    clients = Clients(task, settings)
    own, validation = clients.own("test"), clients.own("validation")
    last: list[Metrics] = []
    best: dict[str, tuple[float, Metrics]] = {}

    def measure(agent: str, round_id: int, model: torch.nn.Module) -> None:
        later = measured(task, model, own[agent])
        score = measured(task, model, validation[agent]).values["macro_f1"]
        if agent not in best or score > best[agent][0]:
            best[agent] = score, later
        if round_id == settings.rounds:
            last.append(later)

    test = next(iter(validation.values()))
    local_only(task, clients.training, settings, test, every=1, on_model=measure)
    return {"alone": mean(last), "alone, chosen": mean([later for _, later in best.values()])}


def newcomers(task: Task, settings: RunSettings, run: RunFolder, path: Path) -> Rows:
    """Two agents that have not taken part, with data of their own."""
    two = replace(settings, virtual=2, data=str(path))
    clients = Clients(task, two)
    model = run.path / "best.safetensors"
    with model.open("rb") as file:
        start = load_state(file.fileno(), str(model))
    shared, own = [], []
    for agent, training in clients.training.items():
        data = Data(training, clients.own("validation")[agent], clients.own("test")[agent])
        way = Way(personal_training(two), (), Seeding(two.seed, agent, 30, 0, 0), 1000)
        outcome, _ = personalise(task, start, data, way)
        found = [outcome.shared["test"], (outcome.own or outcome.shared)["test"]]
        for rows, sums in zip((shared, own), found, strict=True):
            rows.append(metrics_of(sums, task.measures))
    return {"the run's": mean(shared), "fine-tuned": mean(own), **alone(task, two)}


if __name__ == "__main__":
    main()
