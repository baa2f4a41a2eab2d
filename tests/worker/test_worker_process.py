"""A real worker process on the ECG beats that ship with the package."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from flctl.core.randomness import Seeding
from flctl.errors import MalformedMessage, WorkerError
from flctl.settings import LocalTraining, parse
from flctl.wire.compression import check_update
from flctl.wire.messages import DatasetInfo, Shard
from flctl.wire.parameters import ParameterFile
from flctl.worker.jobs import (
    AnyEvent,
    AnyJob,
    DataSource,
    Describe,
    Described,
    EvaluateJob,
    Initialise,
    Initialised,
    JobFailed,
    Scored,
    Stepped,
    Trained,
    TrainJob,
)
from flctl.worker.pipe import Pipe, nameless_file
from flctl.worker.process import WorkerProcess

SHARD = DataSource(shard=Shard(index=0, of=16, partition="record"))
LIMIT_S = 60.0


def drive(worker: WorkerProcess, until: Callable[[AnyEvent], bool]) -> tuple[AnyEvent, int | None]:
    """The first event that fits."""
    end = time.monotonic() + LIMIT_S
    while time.monotonic() < end:
        fd = worker.fileno()
        if fd is not None:
            wait([fd], 0.5)
        for event, attached in worker.events():
            if until(event):
                return event, attached
    raise AssertionError("the worker has said nothing")


def run(worker: WorkerProcess, job: AnyJob, fd: int | None = None) -> tuple[Any, int | None]:
    worker.submit(job, fd)
    return drive(worker, lambda event: not isinstance(event, Stepped))


def training(**changes: Any) -> TrainJob:
    fields: dict[str, Any] = {
        "task": "ecg",
        "source": SHARD,
        "seeding": Seeding(1, "pi-01", version=0, sequence=1, position=0),
        "residuals": "",
        "training": LocalTraining(federate_after_n_batches=3),
        "threads": 1,
        "device": "cpu",
    }
    return TrainJob(**{**fields, **changes})


@pytest.fixture(scope="module")
def worker() -> Generator[WorkerProcess, None, None]:
    made = WorkerProcess()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def model(worker: WorkerProcess) -> Generator[int, None, None]:
    """The first model of a run."""
    _, fd = run(worker, Initialise(given={"task": "ecg"}, where="test"))
    assert fd is not None
    yield fd
    os.close(fd)


def test_describe_counts_the_examples(worker: WorkerProcess) -> None:
    """One entry for each pair of data set and task that fit."""
    event, _ = run(worker, Describe(tasks=("ecg",), datasets={"own": SHARD}))
    assert isinstance(event, Described) and event.error is None
    (info,) = event.datasets
    assert isinstance(info, DatasetInfo)
    assert (info.name, info.task) == ("own", "ecg") and info.examples > 0 and info.held_out > 0
    assert not worker.busy and worker.idle_since is not None


def test_describe_says_why_nothing_can_be_used(worker: WorkerProcess, tmp_path: Path) -> None:
    """The message names the data set, the task and the file."""
    job = Describe(tasks=("ecg",), datasets={"own": DataSource(path=str(tmp_path / "none.npz"))})
    event, _ = run(worker, job)
    assert event.datasets == () and "none.npz" in event.error and "'own'" in event.error


def test_a_device_that_is_not_there_is_told_before_any_round(worker: WorkerProcess) -> None:
    if torch.cuda.is_available():
        return
    event, _ = run(worker, Describe(tasks=("ecg",), datasets={"own": SHARD}, device="cuda"))
    assert isinstance(event, JobFailed) and "torch finds no CUDA GPU here" in event.message


def test_initialise_completes_the_settings_with_the_tasks_own(worker: WorkerProcess) -> None:
    """What is given wins over the task's defaults, those over the general ones."""
    event, fd = run(worker, Initialise(given={"task": "ecg", "batch-size": 7}, where="test"))
    assert isinstance(event, Initialised) and fd is not None
    settings = parse(event.settings, "test")
    assert settings.batch_size == 7 and settings.partition == "record"
    assert os.fstat(fd).st_size == event.size
    os.close(fd)


def test_an_optimiser_that_is_named_does_not_get_the_arguments_of_the_tasks_own(
    worker: WorkerProcess,
) -> None:
    """Adam knows no momentum; it gets only what is given with it."""
    given = {"task": "ecg", "optimizer": "Adam", "lr": 0.001}
    event, fd = run(worker, Initialise(given=given, where="test"))
    assert isinstance(event, Initialised) and fd is not None
    os.close(fd)
    assert event.settings["optimizer_args"] == {}


def test_the_first_model_depends_on_the_seed_alone(worker: WorkerProcess) -> None:
    """Same seed, same bytes."""
    blobs = []
    for seed in (1, 1, 2):
        event, fd = run(worker, Initialise(given={"task": "ecg", "seed": seed}, where="test"))
        assert fd is not None
        os.close(fd)
        blobs.append(event.blob)
    assert blobs[0] == blobs[1] != blobs[2]


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        ({"task": "ecgg"}, "usage", "did you mean 'ecg'"),
        ({"task": "ecg", "epoch": 2}, "usage", "did you mean 'epochs'"),
        ({"task": "ecg", "optimizer": "Magic"}, "usage", "torch.optim has no 'Magic'"),
        ({"task": "ecg", "optimizer_args": {"momenta": 1}}, "usage", "momenta"),
        ({"task": "ecg", "test_data": "no/such/file"}, "usage", "no/such/file"),
        ({}, "usage", "no task is named"),
    ],
)
def test_a_run_that_would_fail_later_fails_at_its_start(
    worker: WorkerProcess, given: dict[str, Any], kind: str, words: str
) -> None:
    """One line with what is wrong."""
    event, fd = run(worker, Initialise(given=given, where="test"))
    assert isinstance(event, JobFailed) and fd is None
    assert event.kind == kind and words in event.message and "\n" not in event.message


@pytest.mark.parametrize("compression", ["none", "int8", "topk"])
def test_an_update_is_compressed_as_the_order_says(
    worker: WorkerProcess, model: int, tmp_path: Path, compression: str
) -> None:
    """In the worker; what top-k has not sent is in the folder when its end is told."""
    asked = LocalTraining(federate_after_n_batches=3, compression=compression)
    job = training(training=asked, residuals=str(tmp_path / "run"))
    event, fd = run(worker, job, model)
    assert isinstance(event, Trained) and fd is not None
    with os.fdopen(fd, "rb") as update:
        check_update(ParameterFile(update.fileno(), "update"), ParameterFile(model, "m"), asked)
    assert (event.claim.compression_error > 0) == (compression != "none")
    kept = [path.name for path in tmp_path.glob("run/*")]
    assert kept == (["000000000003.safetensors"] if compression == "topk" else [])


def test_training_twice_from_one_model_gives_the_same_bytes(
    worker: WorkerProcess, model: int
) -> None:
    """The update is a function of the job alone; its last step is always reported."""
    outcomes = []
    for _ in range(2):
        worker.submit(training(), model)
        steps: list[Stepped] = []

        def is_outcome(event: AnyEvent, steps: list[Stepped] = steps) -> bool:
            if isinstance(event, Stepped):
                steps.append(event)
            return not isinstance(event, Stepped)

        event, fd = drive(worker, is_outcome)
        assert isinstance(event, Trained) and fd is not None
        assert os.fstat(fd).st_size == event.size
        os.close(fd)
        assert (steps[-1].step, steps[-1].steps) == (3, 3)
        assert (
            event.claim.batches == 3 and event.claim.examples > 96
        )  # all that it has: batches are limited
        outcomes.append(event.blob)
    assert outcomes[0] == outcomes[1]


def test_evaluation_on_both_sides(worker: WorkerProcess, model: int) -> None:
    """The coordinator's parts have names; an agent has its held-out examples."""
    job = EvaluateJob(task="ecg", source=DataSource(), side="coordinator", threads=1)
    event, _ = run(worker, job, model)
    assert isinstance(event, Scored) and len(event.parts) == 2
    event, _ = run(worker, EvaluateJob(task="ecg", source=SHARD, side="agent", threads=1), model)
    (sums,) = event.parts.values()
    assert sums.examples > 0 and set(sums.counts) == {"classes", "confidence"}


def test_another_models_blob_is_of_kind_model(worker: WorkerProcess) -> None:
    """Rubbish instead of a model is refused in words."""
    fd = nameless_file("rubbish")
    os.write(fd, b"rubbish" * 100)
    event, _ = run(worker, training(), fd)
    os.close(fd)
    assert isinstance(event, JobFailed) and event.kind == "model"


def test_one_job_at_a_time(worker: WorkerProcess, model: int) -> None:
    """A second one is refused while the first is under way."""
    worker.submit(training(), model)
    with pytest.raises(WorkerError):
        worker.submit(training(), model)
    _, fd = drive(worker, lambda event: isinstance(event, Trained))
    assert fd is not None
    os.close(fd)


def test_a_killed_worker_is_reported_within_two_seconds(worker: WorkerProcess, model: int) -> None:
    """In the middle of training; the next job starts a new process."""
    worker.submit(training(training=LocalTraining(epochs=10_000)), model)
    drive(worker, lambda event: isinstance(event, Stepped))
    assert worker.pid is not None
    before = worker.pid
    os.kill(before, signal.SIGKILL)
    started = time.monotonic()
    event, _ = drive(worker, lambda event: not isinstance(event, Stepped))
    assert time.monotonic() - started < 2.0
    assert isinstance(event, JobFailed) and event.kind == "worker died"
    assert "signal 9" in event.message
    assert not worker.busy and worker.pid is None and not psutil.pid_exists(before)
    event, fd = run(worker, training(), model)
    assert isinstance(event, Trained) and fd is not None and worker.pid != before
    os.close(fd)


def test_an_answer_that_cannot_be_read_is_a_failed_job(
    worker: WorkerProcess, model: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file was dropped for want of descriptors; the next job finds a new process."""
    worker.submit(training(), model)

    def fails(_: object) -> None:
        raise MalformedMessage("a worker message without the file that goes with it")

    with monkeypatch.context() as patch:
        patch.setattr(Pipe, "receive_now", fails)
        ((event, _),) = worker.events()
    assert isinstance(event, JobFailed) and "without the file" in event.message
    assert not worker.busy and worker.events() == []
    _, fd = run(worker, training(), model)
    assert fd is not None
    os.close(fd)


def test_the_worker_offers_itself_to_the_oom_killer(worker: WorkerProcess) -> None:
    """So that it, and not its supervisor, is taken."""
    run(worker, Initialise(given={}, where="test"))
    score = Path(f"/proc/{worker.pid}/oom_score_adj")
    assert score.read_text().strip() == "1000"


def test_stop_ends_it_in_the_middle_of_training(worker: WorkerProcess, model: int) -> None:
    """And it is reaped: no zombie is left."""
    worker.submit(training(training=LocalTraining(epochs=10_000)), model)
    drive(worker, lambda event: isinstance(event, Stepped))
    pid = worker.pid
    started = time.monotonic()
    worker.stop()
    assert time.monotonic() - started < 2.0
    assert pid is not None and not psutil.pid_exists(pid)
    assert worker.events() == [] and not worker.busy and worker.fileno() is None


OWNER = """
import os, sys, time
from flctl.core.randomness import Seeding
from flctl.settings import LocalTraining
from flctl.worker.jobs import Initialise, TrainJob, DataSource, Stepped
from flctl.worker.process import WorkerProcess
worker = WorkerProcess()
def wait(kind):
    while True:
        for event, fd in worker.events():
            if isinstance(event, kind):
                return fd
        time.sleep(0.01)
worker.submit(Initialise(given={"task": "ecg"}, where="test"))
model = wait(object)
worker.submit(TrainJob(task="ecg", source=DataSource(), seeding=Seeding(1, "a", 0, 1, 0),
    residuals="", training=LocalTraining(epochs=10000), device="cpu", threads=1), model)
wait(Stepped)
heavy = [name for name in ("torch", "numpy") if name in sys.modules]
print(worker.pid, *heavy, flush=True)
time.sleep(60)
"""


def test_the_worker_ends_with_its_supervisor() -> None:
    """kill -9 of the supervisor in the middle of training: the worker is gone within 2 s.

    And the supervisor's side has loaded neither torch nor numpy.
    """
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    line = owner.stdout.readline().split()
    assert len(line) == 1, f"loaded: {line[1:]}"
    pid = int(line[0])
    owner.kill()
    owner.wait()
    owner.stdout.close()
    end = time.monotonic() + 2.0
    while is_alive(pid):
        assert time.monotonic() < end, "the worker lives on"
        time.sleep(0.02)


SPEAKER = """
import os, socket, sys
from flctl.worker.jobs import JobFailed
from flctl.worker.pipe import Pipe
print("a download prints")
sys.stdout.flush()
sys.stderr.write("2026-11-28 05:00:00,123 WARNING data.py(l:7) - 3 beats are left out\\n\\n")
sys.stderr.write("x" * 20_000 + "\\nterminate called\\n")
sys.stderr.flush()
os.abort()
"""


def test_what_a_worker_says_is_kept_and_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
):
    """With its levels, its prints and its last words; a long line comes in parts."""
    (tmp_path / "speaker.py").write_text(SPEAKER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    kept: list[tuple[str, str]] = []
    worker = WorkerProcess(module="speaker", keep=lambda level, text: kept.append((level, text)))
    failed, _ = run(worker, Describe(tasks=(), datasets={}))
    assert isinstance(failed, JobFailed) and failed.kind == "worker died"
    end = time.monotonic() + LIMIT_S
    while ("INFO", "terminate called") not in kept:
        assert time.monotonic() < end, kept
        time.sleep(0.02)
    assert kept[:2] == [("INFO", "a download prints"), ("WARNING", "3 beats are left out")]
    assert {len(text) for _, text in kept[2:-1]} == {8192, 20_000 - 2 * 8192}
    assert "terminate called" in capfd.readouterr().err


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
