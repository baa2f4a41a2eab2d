"""A worker of a device whose owner has not allowed weights of an operator's."""

import os

import pytest
import torch

from flctl.core.randomness import Seeding
from flctl.errors import OwnerRefuses
from flctl.learning.ecg import Ecg
from flctl.learning.state import save_state
from flctl.learning.task import initial_model
from flctl.settings import LocalTraining
from flctl.wire.messages import Limits, Shard
from flctl.worker.execution import Executor
from flctl.worker.jobs import DataSource, TrainJob
from flctl.worker.pipe import nameless_file

SHARD = DataSource(shard=Shard(index=0, of=8, partition="record"))
TRAINING = LocalTraining(batch_size=16, federate_after_n_batches=1)


def train(version: int, limits: Limits | None, brought: bool, residuals: str) -> None:
    state = initial_model(Ecg(), 4).state_dict()
    if brought:
        state = {name: tensor + 0.01 for name, tensor in state.items()}
    fd = nameless_file("model")
    save_state(fd, state, {"task": "ecg"})
    job = TrainJob(
        task="ecg",
        source=SHARD,
        training=TRAINING,
        seeding=Seeding(4, "pi-01", version, 1, 0),
        residuals=residuals,
        limits=limits,
    )
    try:
        _, update = Executor().train(job, fd, lambda _: None)
        os.close(update)
    finally:
        os.close(fd)


def test_an_order_that_lies_about_the_first_model_is_refused(tmp_path):
    """It says that nothing was brought; the device makes the task's first model of the run's seed
    itself. What later rounds start from is an average, and cannot be told."""
    torch.set_num_threads(1)
    here = str(tmp_path)
    train(0, Limits(), False, here)
    with pytest.raises(OwnerRefuses, match="other weights than task 'ecg' has with seed 4"):
        train(0, Limits(), True, here)
    train(0, Limits(accept_weights=True), True, here)
    train(0, None, True, here)
    train(1, Limits(), True, here)
