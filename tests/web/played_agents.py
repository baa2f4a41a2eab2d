"""Agents in one process: real supervisors over real links; machine and training are played.

    python played_agents.py SETTINGS     # JSON: coordinator, server_key, token, folder, names, logs

FOLDER/play.json steers them while they live: for each name `telemetry`, `kind`, `fails` (the text
of its next failure) and `batch_s`. They end with their standard input.
"""

import json
import logging
import os
import sys
import time
from pathlib import Path
from threading import Timer
from typing import Any

import msgspec
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from many_agents import live

from flctl.core.metrics import from_confusion
from flctl.learning.registry import task_digest
from flctl.wire.messages import Claim, DatasetInfo, Device, Telemetry
from flctl.wire.parameters import ParameterFile, dump
from flctl.worker.jobs import Describe, Described, JobFailed, Scored, Stepped, Trained, TrainJob

TASK = "ecg"
STEPS = 10


class Play:
    """The file that steers one agent."""

    def __init__(self, path: Path, name: str) -> None:
        self._path, self._name = path, name

    def __call__(self) -> dict[str, Any]:
        try:
            return dict(json.loads(self._path.read_text()).get(self._name, {}))
        except (FileNotFoundError, json.JSONDecodeError):
            return {}


class PlayedWorker:
    """Takes `batch_s` for each of ten steps, as it is at the moment: a step that would last long
    ends when it is made short. An update is the model, a little moved."""

    def __init__(self, play: Play) -> None:
        self.pid: int | None = None
        self.idle_since: float | None = None
        self._play = play
        self._job: Any = None
        self._fd: int | None = None
        self._step, self._stepped = 0, 0.0

    @property
    def busy(self) -> bool:
        return self._job is not None

    def submit(self, job: Any, fd: int | None = None) -> None:
        self._job, self._fd = job, fd
        self._step, self._stepped = 0, float("-inf")

    def events(self) -> list[tuple[Any, int | None]]:
        if not isinstance(self._job, TrainJob) or self._step == STEPS:
            return [] if self._job is None else self._ended()
        now = time.monotonic()
        if now < self._stepped + float(self._play().get("batch_s", 0.02)):
            return []
        self._step += 1
        self._stepped = now
        return [(Stepped(step=self._step, steps=STEPS, loss=1.0 / self._step), None)]

    def _ended(self) -> list[tuple[Any, int | None]]:
        job, self._job = self._job, None
        if fails := self._play().get("fails") if isinstance(job, TrainJob) else None:
            return [(JobFailed(kind="error", message=fails), None)]
        if isinstance(job, Describe):
            info = DatasetInfo(name="default", task=TASK, examples=100, validation=20, held_out=20)
            return [(Described(datasets=(info,), torch="2", cuda=False), None)]
        if isinstance(job, TrainJob):
            return [self._trained(job)]
        return [(Scored(parts={"test": from_confusion(0.5, [[1, 0], [0, 1]])}), None)]

    def _trained(self, job: TrainJob) -> tuple[Any, int | None]:
        assert self._fd is not None
        file = ParameterFile(self._fd, "the model")
        tensors = {s.name: (s.dtype, file.read(s).reshape(s.shape)) for s in file.specs}
        draw = np.random.default_rng(job.seeding.round)
        for name, (dtype, array) in tensors.items():
            if dtype == "F32" and array.size:
                moved = array + draw.normal(0, 0.02, array.shape).astype(np.float32)
                tensors[name] = (dtype, moved)
        out = os.memfd_create("update")
        blob, size = dump(out, tensors, file.metadata)
        claim = Claim(examples=100, batches=STEPS, loss=0.5, last_loss=0.4, seconds=0.2)
        return Trained(blob=blob, size=size, claim=claim, available=100), out

    def fileno(self) -> int | None:
        return None

    def cancel(self) -> None:
        self._job = None

    def stop(self) -> None:
        self.cancel()


class PlayedMachine:
    def __init__(self, play: Play) -> None:
        self._play = play

    def device(self, torch: str | None = None, cuda: bool = False) -> Device:
        kind = self._play().get("kind", "Raspberry Pi 4 Model B Rev 1.4")
        return Device(
            kind=kind, arch="aarch64", cores=4, memory_bytes=2**31, torch=torch, cuda=cuda
        )

    def read(self, uptime_s: float, worker: int | None = None) -> Telemetry:
        usual = {
            "temperature_c": 51.0, "throttled": (), "memory_used_bytes": 400 << 20,
            "memory_total_bytes": 2 << 30, "disk_free_bytes": 12 << 30, "load_1m": 0.4,
            "cpu_percent": 20.0, "written_bytes": int(uptime_s * 1000),
        }  # fmt: skip
        given = {**usual, **self._play().get("telemetry", {}), "uptime_s": uptime_s}
        return msgspec.convert(given, Telemetry)


def main() -> None:
    given = json.loads(sys.argv[1])
    plays = Path(given["folder"]) / "play.json"

    def make(name: str) -> tuple[PlayedWorker, PlayedMachine]:
        play = Play(plays, name)
        return PlayedWorker(play), PlayedMachine(play)

    if given.get("logs"):
        logging.basicConfig(level=logging.INFO)
        Timer(2.0, lambda: logging.warning("<b>bold</b>\x1b[31m\u202e says a library")).start()
    live(given, {TASK: given.get("digest") or task_digest(TASK)}, make)


if __name__ == "__main__":
    main()
