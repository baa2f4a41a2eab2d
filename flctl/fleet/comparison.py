"""Baselines of a federated run, computed at the same time in processes of low priority.

python -m flctl.fleet.comparison central|local-only < request > answer
"""

import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, get_args

import msgspec
import numpy as np
from msgspec import Struct, structs

from flctl.core.metrics import CLASSES, DEFINED, LOSS, from_confusion, metrics_of
from flctl.core.spread import mean
from flctl.errors import RunError
from flctl.wire.messages import VALIDATION, Metrics

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flctl.learning.task import Task

How = Literal["central", "local-only"]
LOW_PRIORITY = 10
"""Niceness: the agents of the run come first."""


OWN = "own"
"""Mean over the agents of what each measures on its own held-out data. With agents alone, each
model meets only the data of its owner."""


_ALWAYS = {LOSS.name, *(name for name, of in DEFINED.items() if CLASSES in of.tables)}
"""Metrics that the counts of classes are enough for."""


class Compared(Struct, frozen=True):
    """One way of training, over as many rounds."""

    curve: dict[int, Metrics]
    """By round, on the part of the test data that counts."""
    final: dict[str, Metrics]
    """At the end, on every part by its name, and as `OWN`; the mean of several models."""
    agents: dict[str, dict[str, Metrics]] = {}
    """The same for each agent that trained alone."""


class Beside(Struct, frozen=True):
    """What the figures of a model mean."""

    own: dict[str, Metrics]
    """Metrics of that model on what each agent holds out; empty where none does."""
    commonest: str
    """The class with the most examples over all agents."""
    always: dict[str, Metrics]
    """Metrics of always predicting that class, on every part and as `OWN`."""
    classes: dict[str, dict[str, int]]
    """Number of examples of each class, by part."""
    groups: dict[str, int]
    """Number of records (patients, in the demo) by part."""


class _Request(Struct):
    given: dict[str, Any]
    every: int
    rounds_alone: int | None


class Comparison:
    """Both baselines of the run whose settings are `given`; to be entered, then asked.

    They are measured every so many rounds; agents alone, who learn no more after a few
    rounds, train for `rounds_alone`. Leaving the block ends what still computes.
    """

    def __init__(
        self, given: dict[str, Any], every: int = 1, rounds_alone: int | None = None
    ) -> None:
        self._request = msgspec.json.encode(_Request(given, every, rounds_alone))
        self._running: dict[How, tuple[subprocess.Popen[bytes], IO[bytes], IO[bytes]]] = {}

    def __enter__(self) -> "Comparison":
        for how in get_args(How):
            output, errors = tempfile.TemporaryFile(), tempfile.TemporaryFile()
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "flctl.fleet.comparison", how],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=errors,
                start_new_session=True,
            )
            assert process.stdin is not None
            process.stdin.write(self._request + b"\n")
            process.stdin.flush()
            self._running[how] = process, output, errors
        return self

    def __exit__(self, *_: object) -> None:
        for process, output, errors in self._running.values():
            if process.poll() is None:
                process.kill()
                process.wait()
            if process.stdin is not None:
                process.stdin.close()
            output.close()
            errors.close()

    def result(self, how: How) -> Compared:
        """Waits for it. Raises RunError when it could not be computed."""
        process, output, errors = self._running[how]
        if process.wait() != 0:
            errors.seek(0)
            words = errors.read().decode(errors="replace").strip().splitlines()
            raise RunError(f"the {how} comparison failed: {words[-1] if words else 'no reason'}")
        output.seek(0)
        return msgspec.json.decode(output.read(), type=Compared)


def compute(how: How, given: dict[str, Any], every: int, rounds: int | None = None) -> Compared:
    """Train as `how` says with the settings `given`, for `rounds` if that is named.

    Loads torch. Raises FlctlError.
    """
    from torch import nn

    from flctl.learning import baseline
    from flctl.learning import device as devices
    from flctl.learning.evaluation import measured

    scene = _Scene(given)
    settings = structs.replace(scene.settings, rounds=rounds or scene.settings.rounds)
    device = devices.set_up(settings.device, settings.threads)
    task, shards, parts = scene.task, scene.clients.training, scene.parts
    main = next(iter(parts.values()))
    finals: dict[str, dict[str, Metrics]] = {}

    def measure(agent: str, round_id: int, model: nn.Module) -> None:
        if round_id == settings.rounds:
            found = finals[agent] = {
                name: measured(task, model, part, device=device) for name, part in parts.items()
            }
            own = [scene.own[agent]] if agent in scene.own else list(scene.own.values())
            if own:
                found[OWN] = mean([measured(task, model, part, device=device) for part in own])

    if how == "central":
        curve = baseline.central(
            task, list(shards.values()), settings, main,
            every=every, device=device, on_model=measure,
        )  # fmt: skip
    else:
        curve = baseline.local_only(
            task, shards, settings, main, every=every, device=device, on_model=measure
        )
    names = dict.fromkeys(name for found in finals.values() for name in found)
    final = {name: mean([f[name] for f in finals.values() if name in f]) for name in names}
    return Compared(curve, final, finals if how == "local-only" else {})


def beside(given: dict[str, Any], model: Path) -> Beside:
    """What the figures of the file `model`, of a run with the settings `given`, are compared with.

    Loads torch. Raises FlctlError.
    """
    from flctl.learning import device as devices
    from flctl.learning.evaluation import measured
    from flctl.learning.state import load_into
    from flctl.learning.whole import frozen_of

    scene = _Scene(given)
    device = devices.set_up(scene.settings.device, scene.settings.threads)
    task = scene.task
    learnt, frozen = task.model(), frozen_of(model)
    with model.open("rb") as file:
        load_into(learnt, file.fileno(), str(model), frozen)
    trained = sum(part.histogram() for part in scene.clients.training.values())
    commonest = int(np.argmax(trained))
    counts = {name: part.histogram() for name, part in scene.parts.items()}
    own = {a: measured(task, learnt, part, device=device) for a, part in scene.own.items()}
    always = {name: _always(task, commonest, found) for name, found in counts.items()}
    if own:
        always[OWN] = mean([_always(task, commonest, p.histogram()) for p in scene.own.values()])
    return Beside(
        own=own,
        commonest=task.classes[commonest],
        always=always,
        classes={
            name: dict(zip(task.classes, map(int, found), strict=True))
            for name, found in counts.items()
        },
        groups={
            name: len(np.unique(part.group))
            for name, part in scene.parts.items()
            if part.group is not None
        },
    )


class _Scene:
    """The data of a run: who trains on what, and what is measured on."""

    def __init__(self, given: dict[str, Any]) -> None:
        from flctl.fleet.clients import Clients, first_model
        from flctl.learning.source import evaluation_parts
        from flctl.learning.task import task_of
        from flctl.worker.jobs import for_testing

        first = first_model(given, "the comparison")
        os.close(first.fd)
        settings = self.settings = first.settings
        self.task = task_of(settings)
        self.clients = Clients(self.task, settings)
        self.own = self.clients.own("test")
        source = for_testing(settings)
        parts = evaluation_parts(self.task, source)
        self.parts = {name: part for name, part in parts.items() if name != VALIDATION} or parts


def _always(task: "Task", said: int, targets: "NDArray[np.int64]") -> Metrics:
    """Metrics of always predicting one class; the loss would be infinite."""
    table = np.zeros((len(targets), len(targets)), np.int64)
    table[:, said] = targets
    named = [m for m in task.measures.metrics if m.name in _ALWAYS]
    measures = structs.replace(task.measures, metrics=tuple(named))
    return metrics_of(from_confusion(sys.float_info.max, table.tolist()), measures)


def _serve() -> None:
    os.nice(LOW_PRIORITY)
    request = msgspec.json.decode(sys.stdin.buffer.readline(), type=_Request)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    how = msgspec.convert(sys.argv[1], How)
    rounds = request.rounds_alone if how == "local-only" else None
    answer = compute(how, request.given, request.every, rounds)
    sys.stdout.buffer.write(msgspec.json.encode(answer))


def _end_with_parent() -> None:
    """Standard input ends when the parent does, however that ends."""
    while os.read(0, 1024):  # not through sys.stdin: its lock would be held at our own end
        pass
    os._exit(1)


if __name__ == "__main__":
    _serve()
