"""Many light agents in one process: real supervisors over real links, with a trainer that costs
next to nothing.

    python light.py SETTINGS     # JSON: coordinator, server_key, token, task, digest, folder, names

The state of each is FOLDER/NAME. It ends with its standard input.
"""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from many_agents import live

from flctl.core.metrics import from_confusion
from flctl.wire.messages import (
    Claim,
    DatasetInfo,
    Device,
    Telemetry,
)
from flctl.wire.parameters import ParameterFile, dump
from flctl.worker.jobs import (
    AnyEvent,
    AnyJob,
    Describe,
    Described,
    JobFailed,
    Scored,
    Trained,
    TrainJob,
)

EXAMPLES = 10


class LightWorker:
    """Answers a job in the same step. An update is the model with one number moved."""

    def __init__(self, task: str) -> None:
        self.pid: int | None = None
        self.idle_since: float | None = None
        self._task = task
        self._ended: list[tuple[AnyEvent, int | None]] = []

    @property
    def busy(self) -> bool:
        return bool(self._ended)

    def submit(self, job: AnyJob, fd: int | None = None) -> None:
        match job:
            case Describe():
                info = DatasetInfo(name="default", task=self._task, examples=EXAMPLES)
                told: tuple[AnyEvent, int | None] = (
                    Described(datasets=(info,), torch="2", cuda=False),
                    None,
                )
            case TrainJob() if fd is not None:
                told = train(job, fd)
            case _:
                told = Scored(parts={"test": from_confusion(0.5, [[1, 0], [0, 1]])}), None
        self._ended.append(told)

    def events(self) -> list[tuple[AnyEvent, int | None]]:
        ended, self._ended = self._ended, []
        return ended

    def fileno(self) -> int | None:
        return None

    def cancel(self) -> None:
        for _, fd in self.events():
            if fd is not None:
                os.close(fd)

    def stop(self) -> None:
        self.cancel()


def train(job: TrainJob, fd: int) -> tuple[AnyEvent, int | None]:
    file = ParameterFile(fd, "the model")
    tensors = {spec.name: (spec.dtype, file.read(spec).reshape(spec.shape)) for spec in file.specs}
    first = next(array for dtype, array in tensors.values() if dtype == "F32" and array.size)
    first.reshape(-1)[0] += sum(job.seeding.agent.encode()) % 97
    out = os.memfd_create("update")
    try:
        blob, size = dump(out, tensors, file.metadata)
    except OSError as error:
        os.close(out)
        return JobFailed(kind="error", message=str(error)), None
    claim = Claim(examples=EXAMPLES, batches=1, loss=0.5, last_loss=0.5, seconds=0.01)
    return Trained(blob=blob, size=size, claim=claim, available=EXAMPLES), out


class LightMachine:
    def device(self, torch: str | None = None, cuda: bool = False) -> Device:
        return Device(kind="light", arch="any", cores=1, memory_bytes=1, torch=torch, cuda=cuda)

    def read(self, uptime_s: float, worker: int | None = None) -> Telemetry:
        return Telemetry(uptime_s=uptime_s)


def main() -> None:
    given = json.loads(sys.argv[1])
    task = given["task"]
    live(given, {task: given["digest"]}, lambda name: (LightWorker(task), LightMachine()))


if __name__ == "__main__":
    main()
