"""A worker process that learns nothing: its update is the model with a constant added.

Started as `python -m adder_worker DESCRIPTOR LOG_LEVEL` in the place of
`flctl.worker.main`: the same pipe, the same files, no torch and no data.
"""

import contextlib
import os
import signal
import socket
import sys
import time

import numpy as np

from flctl.wire.messages import (
    Claim,
    DatasetInfo,
)
from flctl.wire.parameters import ParameterFile, ParameterWriter
from flctl.worker.jobs import AnyEvent, AnyJob, Describe, Described, JobFailed, Trained, TrainJob
from flctl.worker.pipe import Pipe, nameless_file

CONSTANT = np.float32(0.001)
EXAMPLES = 1000


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pipe: Pipe[AnyJob] = Pipe(socket.socket(fileno=int(sys.argv[1])), AnyJob)
    with contextlib.suppress(BrokenPipeError):
        serve(pipe)


def serve(pipe: Pipe[AnyJob]) -> None:
    while not pipe.ended:
        for job, fd in pipe.receive():
            event, update = _do(job, fd)
            pipe.send(event, update)
            for used in (fd, update):
                if used is not None:
                    os.close(used)


def _do(job: AnyJob, fd: int | None) -> tuple[AnyEvent, int | None]:
    match job:
        case Describe():
            datasets = tuple(
                DatasetInfo(name=name, task=task, examples=EXAMPLES)
                for name in job.datasets
                for task in job.tasks
            )
            return Described(datasets=datasets, torch="none", cuda=False), None
        case TrainJob() if fd is not None:
            return _add(fd)
        case _:
            return JobFailed(kind="error", message="the adding worker only trains"), None


def _add(model: int) -> tuple[AnyEvent, int]:
    began = time.monotonic()
    parameters = ParameterFile(model, "the model")
    update = nameless_file("update")
    writer = ParameterWriter(update, parameters.specs, parameters.metadata)
    for spec in parameters.specs:
        writer.write(parameters.read(spec) + CONSTANT)
    blob, size = writer.finish()
    seconds = time.monotonic() - began
    claim = Claim(examples=EXAMPLES, batches=1, loss=0.0, last_loss=0.0, seconds=seconds)
    trained = Trained(
        blob=blob,
        size=size,
        claim=claim,
        available=EXAMPLES,
    )
    return trained, update


if __name__ == "__main__":
    main()
