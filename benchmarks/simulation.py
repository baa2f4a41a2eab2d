"""Virtual runs beside plain PyTorch loops of the same jobs: whole processes, in turns.

    .venv/bin/python benchmarks/simulation.py --data ../shared/data/mnist
    .venv/bin/python benchmarks/simulation.py --job cnn --jobs 2 --times 1

`logistic`: MNIST logistic regression, 1,000 clients of 60 examples, 10 a round, lr 0.03, tests
every 20 rounds. `cnn`: the network of McMahan et al. 2017 (1.66 million parameters), 100 clients,
10 a round, no tests. `small`: 100 clients, all in each round, two steps each. With --jobs J the
plain side is J loops at the same time, each with its part of every round's clients: the limit of
the machine. `first`: the command `flctl train --task ecg --virtual 4` until its first round is
committed, beside `import torch` and the training of that round. `memory`: 10,000 clients beside
100, 10 a round. Without --data the images are random numbers of the same shape.

Prints a JSON line for each process, then a table: the least of each side, and their ratio.
`seconds` and `cpu_s` are those of the whole process, `rounds_s` of its rounds alone, `peak_mib` of
its largest process.
"""

import argparse
import gzip
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from measures import peak_rss_mib
from numpy.typing import NDArray
from torch import nn

from flctl.learning.classification import Classification
from flctl.learning.examples import Examples

EXAMPLES, TESTS, BATCH = 60_000, 10_000, 10
FILES = {"train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
         "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz")}  # fmt: skip
Pixels = NDArray[np.uint8]


class Logistic(Classification):
    """The same data on both sides; nothing is held back, so that every client has 60 examples."""

    name = "logistic"
    classes = tuple("0123456789")
    validation_share = 0.0

    def model(self) -> nn.Module:
        return logistic()

    def train_data(self, path: Path | None) -> Examples:
        return Examples(*images(path, "train"), classes=10)

    def held_out(self, path: Path | None) -> Examples:
        return Examples(*images(path, "test"), classes=10)

    def inputs(self, x: torch.Tensor, *, training: bool) -> torch.Tensor:  # noqa: ARG002
        return scaled(x)


class Convolutional(Logistic):
    name = "cnn"

    def model(self) -> nn.Module:
        return convolutional()


class Job(NamedTuple):
    task: type[Logistic]
    clients: int
    rounds: int
    lr: float
    every: int = 0
    """Rounds from one evaluation to the next; 0: none."""
    per_round: int = 10
    steps: int | None = None
    """Of each client; None: an epoch."""


JOBS = {
    "logistic": Job(Logistic, 1000, 100, 0.03, every=20),
    "cnn": Job(Convolutional, 100, 10, 0.1),
    "small": Job(Logistic, 100, 20, 0.03, per_round=100, steps=2),
    "memory": Job(Logistic, 100, 3, 0.03),
}


def logistic() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, 10),
    )  # fmt: skip


def images(folder: Path | None, part: str) -> tuple[Pixels, Pixels]:
    if folder is None:
        count = EXAMPLES if part == "train" else TESTS
        draw = np.random.default_rng(count)
        x = draw.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        return x, draw.integers(0, 10, count, dtype=np.uint8)
    pixels, labels = (gzip.decompress((folder / name).read_bytes()) for name in FILES[part])
    x = np.frombuffer(pixels, np.uint8, offset=16).reshape(-1, 28, 28)
    return x, np.frombuffer(labels, np.uint8, offset=8)


def scaled(x: torch.Tensor) -> torch.Tensor:
    return ((x.float() / 255 - 0.1307) / 0.3081).unsqueeze(1)


def plain(options: argparse.Namespace) -> float:
    """As one would write it; seconds of the rounds."""
    torch.set_num_threads(1)
    job = JOBS[options.job]
    x, y = (torch.from_numpy(part.copy()) for part in images(options.data, "train"))
    tx, ty = (torch.from_numpy(part.copy()) for part in images(options.data, "test"))
    y, ty = y.long(), ty.long()
    draw = np.random.default_rng(1)
    shards = [torch.from_numpy(s) for s in np.array_split(draw.permutation(len(y)), job.clients)]
    torch.manual_seed(1)
    model = job.task().model()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    began = time.perf_counter()
    for round_id in range(1, options.rounds + 1):
        everybody = draw.choice(job.clients, job.per_round, replace=False)
        chosen = everybody[options.part :: options.jobs]
        total = {name: torch.zeros_like(value) for name, value in state.items()}
        for client in chosen:
            model.load_state_dict(state)
            model.train()
            optimizer = torch.optim.SGD(model.parameters(), lr=job.lr)
            rows = shards[client][torch.randperm(len(shards[client]))]
            for batch in torch.split(rows, BATCH)[: job.steps]:
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(scaled(x[batch])), y[batch])
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            for name, value in model.state_dict().items():
                total[name] += value / len(chosen)
        state = total
        if job.every and (round_id % job.every == 0 or round_id == options.rounds):
            model.load_state_dict(state)
            model.eval()
            with torch.no_grad():
                batches = list(zip(tx.split(1000), ty.split(1000), strict=True))
                mine = batches[options.part :: options.jobs]
                right = sum(int((model(scaled(a)).argmax(1) == b).sum()) for a, b in mine)
            accuracy = right / sum(len(b) for _, b in mine)
            print(f"round {round_id}: accuracy {accuracy:.4f}", file=sys.stderr)
    return time.perf_counter() - began


def federated(options: argparse.Namespace) -> float:
    """As `flctl train` does it."""
    from flctl.fleet.virtual import VirtualRun

    job = JOBS[options.job]
    clients = options.clients or job.clients
    given: dict[str, Any] = {
        "task": f"simulation:{job.task.__name__}", "virtual": clients, "batch_size": BATCH,
        "fraction": job.per_round / clients, "lr": job.lr, "rounds": options.rounds,
        "evaluate": "coordinator" if job.every else "none", "jobs": options.jobs,
        "evaluate_every": max(1, job.every),
    }  # fmt: skip
    if job.steps:
        given["federate_after_n_batches"] = job.steps
    if options.data:
        given["data"] = str(options.data.absolute())
    with tempfile.TemporaryDirectory() as state:
        run = VirtualRun.start(Path(state), given, "simulation.py")
        began = time.perf_counter()
        history = run.run()
        if history.state != "finished":
            raise SystemExit(history.reason)
        return time.perf_counter() - began


def once(job: str, side: str, options: argparse.Namespace, *more: str) -> dict[str, float]:
    """A process of its own, or `--jobs` plain ones."""
    began = time.perf_counter()
    command = [sys.executable, __file__, "--job", job, "--side", side, "--jobs", str(options.jobs)]
    command += [*more, *(["--data", str(options.data)] if options.data else [])]
    command += ["--rounds", str(options.rounds)] if options.rounds else []
    loops = [
        subprocess.Popen([*command, "--part", str(part)], stdout=subprocess.PIPE)
        for part in range(options.jobs if side == "plain" else 1)
    ]
    found = [json.loads(loop.communicate()[0]) for loop in loops]
    row = {
        "seconds": round(time.perf_counter() - began, 3),
        "cpu_s": round(sum(f["cpu_s"] for f in found), 3),
    }
    row |= {name: max(each[name] for each in found) for name in ("rounds_s", "peak_mib")}
    print(json.dumps({"job": job, "side": " ".join([side, *more]), **row}), flush=True)
    return row


def timed(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def first_plain() -> dict[str, float]:
    """Importing torch; the training is that of flctl's side."""
    return {"seconds": timed([sys.executable, "-c", "import torch"])}


def first_flctl() -> dict[str, float]:
    with tempfile.TemporaryDirectory() as state:
        began = time.time()
        where = ["--state", state, "--rounds", "1", "--evaluate", "coordinator"]
        timed([sys.executable, "-m", "flctl", "train", "--task", "ecg", "--virtual", "4", *where])
        (journal,) = Path(state).glob("runs/*/journal.jsonl")
        events = [json.loads(line) for line in journal.read_bytes().splitlines()]
        training = sum(e["seconds"] for e in events if e["event"] == "update")
        (ended,) = (e["at"] for e in events if e["event"] == "round")
    return {"seconds": ended - began, "training_s": training}


def in_turns(times: int, *sides: Callable[[], dict[str, float]]) -> list[dict[str, float]]:
    """The least of each."""
    found = [[side() for side in sides] for _ in range(times)]
    return [{k: min(row[k] for row in rows) for k in rows[0]} for rows in zip(*found, strict=True)]


def compare(job: str, options: argparse.Namespace) -> None:
    """A row of the table."""
    if job == "first":
        plain_, ours = in_turns(options.times, first_plain, first_flctl)
        plain_ = {"seconds": plain_["seconds"] + ours.pop("training_s")}
    elif job == "memory":
        few = partial(once, job, "flctl", options)
        many = partial(once, job, "flctl", options, "--clients", "10000")
        plain_, ours = in_turns(options.times, few, many)
    else:
        plain_, ours = in_turns(
            options.times, *(partial(once, job, side, options) for side in ("plain", "flctl"))
        )
    name = f"{job}, {options.jobs} jobs" if options.jobs > 1 else job
    for key, value in ours.items():
        ratio = value / plain_[key]
        print(f"| {name} | {key} | {plain_[key]:.2f} | {value:.2f} | {ratio:.3f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--job", choices=[*JOBS, "first"], help="only this one")
    parser.add_argument("--data", type=Path, help="folder with MNIST's packed IDX files")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--jobs", type=int, choices=range(1, 11), default=1)
    parser.add_argument("--part", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--clients", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--side", choices=["plain", "flctl"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        options.rounds = options.rounds or JOBS[options.job].rounds
        rounds_s = (plain if options.side == "plain" else federated)(options)
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        own = resource.getrusage(resource.RUSAGE_SELF)
        cpu_s = sum(each.ru_utime + each.ru_stime for each in (own, children))
        peak_mib = max(peak_rss_mib(), children.ru_maxrss / 1024)
        row = {"rounds_s": rounds_s, "cpu_s": cpu_s, "peak_mib": peak_mib}
        print(json.dumps({name: round(value, 3) for name, value in row.items()}))
        return
    for job in [options.job] if options.job else [*JOBS, "first"]:
        compare(job, options)
    if options.job is None and options.jobs == 1:
        options.jobs = 2
        compare("cnn", options)


if __name__ == "__main__":
    main()
