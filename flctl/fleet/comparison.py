"""What a federated run is compared with, computed beside it in processes of low priority.

python -m flctl.fleet.comparison central|local-only < request > answer
"""

import os
import subprocess
import sys
import tempfile
import threading
from types import TracebackType
from typing import IO, Any, Literal, get_args

import msgspec
from msgspec import Struct, structs

from flctl.errors import RunError
from flctl.wire.messages import Metrics

How = Literal["central", "local-only"]
LOW_PRIORITY = 10
"""Of nice: the agents of the run come first."""


class Compared(Struct, frozen=True):
    """One way of training, over as many rounds."""

    curve: dict[int, Metrics]
    """By round, on the part of the test data that counts."""
    final: dict[str, Metrics]
    """At the end, on every part by its name."""


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
                [sys.executable, "-m", "flctl.fleet.comparison", how],
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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
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

    from flctl.fleet.clients import Clients, first_model
    from flctl.learning import baseline
    from flctl.learning import device as devices
    from flctl.learning.evaluation import evaluate
    from flctl.learning.source import evaluation_parts
    from flctl.learning.task import load_task
    from flctl.worker.jobs import DataSource

    first = first_model(given, "the comparison")
    os.close(first.fd)
    settings = structs.replace(first.settings, rounds=rounds or first.settings.rounds)
    device = devices.set_up(settings.device, settings.threads)
    task = load_task(settings.task)
    shards = Clients(task, settings).training
    parts = evaluation_parts(
        task,
        DataSource(path=settings.test_data or settings.data, trained_on=settings.test_data is None),
    )
    main = next(iter(parts.values()))
    finals: dict[str, list[Metrics]] = {name: [] for name in parts}

    def measure(_: str, round_id: int, model: nn.Module) -> None:
        if round_id == settings.rounds:
            for name, part in parts.items():
                finals[name].append(evaluate(task, model, part, device=device))

    if how == "central":
        curve = baseline.central(
            task, list(shards.values()), settings, main,
            every=every, device=device, on_model=measure,
        )  # fmt: skip
    else:
        curve = baseline.local_only(
            task, shards, settings, main, every=every, device=device, on_model=measure
        )
    return Compared(curve, {name: _mean(found) for name, found in finals.items()})


def _mean(metrics: list[Metrics]) -> Metrics:
    """Of the figures; several models have no common confusion."""
    n = len(metrics)
    return Metrics(
        loss=sum(m.loss for m in metrics) / n,
        accuracy=sum(m.accuracy for m in metrics) / n,
        macro_f1=sum(m.macro_f1 for m in metrics) / n,
        examples=metrics[0].examples,
        confusion=metrics[0].confusion if n == 1 else (),
    )


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
