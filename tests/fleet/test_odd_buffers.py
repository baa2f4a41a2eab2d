"""Models with a mask of −∞, an expanded buffer, half precision, or batch norm."""

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from flctl.errors import ParametersError, TaskError
from flctl.fleet.virtual import VirtualRun
from flctl.learning.checkup import Subject, check_model, check_state
from flctl.learning.checkup_steps import check_metrics
from flctl.learning.classification import Classification
from flctl.learning.examples import Examples
from flctl.learning.state import load_state, save_state
from flctl.learning.task import load_task
from flctl.settings import LocalTraining
from flctl.wire.compression import check_update
from flctl.wire.parameters import ParameterFile
from flctl.worker.execution import Executor
from flctl.worker.jobs import Initialise
from flctl.worker.pipe import nameless_file


class Masked(nn.Module):
    """A mask as a transformer has it, one of NaN, and one that is expanded."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 2)
        self.register_buffer("mask", torch.triu(torch.full((8, 8), float("-inf")), 1))
        self.register_buffer("unknown", torch.full((3,), float("nan")))
        self.register_buffer("ones", torch.ones(1).expand(8))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x * self.ones + torch.softmax(self.mask, 1).sum(0))


class Base(Classification):
    name, classes = "odd", ("a", "b")
    defaults: ClassVar[dict[str, Any]] = {"batch_size": 16}

    def train_data(self, path: Path | None) -> Examples:
        x = torch.arange(33 * 8, dtype=torch.float32).reshape(33, 8) / 100
        return Examples(x, torch.arange(33) % 2, classes=2)

    def held_out(self, path: Path | None) -> Examples:
        return Examples(torch.ones(4, 8), torch.arange(4) % 2, classes=2)


class OfMask(Base):
    def model(self) -> nn.Module:
        return Masked()


class OfNorm(Base):
    validation_share = 0.0  # its last batch has one example

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


class OfHalves(Base):
    def model(self) -> nn.Module:
        return nn.Linear(8, 2).bfloat16()

    def inputs(self, x: Tensor, *, training: bool) -> Tensor:
        return x.bfloat16()


class OfNothing(Base):
    def model(self) -> nn.Module:
        made = nn.Linear(8, 2)
        nn.init.constant_(made.bias, float("inf"))
        return made


def run_of(tmp_path: Path, kind: str, **more: object) -> VirtualRun:
    given = {"task": f"{__name__}:{kind}", "virtual": 1, "rounds": 2, "partition": "iid", **more}
    run = VirtualRun.start(tmp_path, given, "the test")
    run.run()
    return run


@pytest.mark.parametrize("more", [{}, {"compression": "int8"}, {"strategy": "fedadam"},
                                  {"strategy": "median", "clip_norm": 1.0}])  # fmt: skip
def test_a_mask_comes_back_as_it_was(tmp_path: Path, more: dict[str, object]) -> None:
    """Whatever travels and however it is averaged; the expanded buffer takes its numbers."""
    run = run_of(tmp_path, "OfMask", **more)
    assert run.history.state == "finished", run.history.reason
    with run.folder.model_path(2).open("rb") as file:
        state = load_state(file.fileno(), "the model")
    assert torch.equal(state["mask"], Masked().mask) and state["unknown"].isnan().all()
    task = load_task(f"{__name__}:OfMask")
    subject = Subject(f"{__name__}:OfMask", None, task, task.model())
    check_model(subject)
    assert "bytes a round" in check_state(subject).text


def test_an_update_in_which_a_mask_is_another_does_not_count() -> None:
    """Numbers that are not finite are a mistake, or meant to do harm."""
    base, update = nameless_file("base"), nameless_file("update")
    state = Masked().state_dict()
    save_state(base, state, {"buffers": ["mask", "ones", "unknown"]})
    save_state(update, {**state, "mask": state["mask"].T.clone()})
    files = ParameterFile(update, "update"), ParameterFile(base, "base")
    with pytest.raises(ParametersError, match="mask holds NaN or infinite"):
        check_update(*files, LocalTraining())


def test_weights_that_are_no_numbers_are_refused_before_the_first_round() -> None:
    """With what to do where they are meant to be so."""
    job = Initialise(given={"task": f"{__name__}:OfNothing"}, where="here")
    with pytest.raises(TaskError, match=r"'bias' holds NaN .* register_buffer"):
        Executor().initialise(job)


def test_half_precision_sums_to_one_as_far_as_it_can() -> None:
    """Two digits, where single precision has seven."""
    task = load_task(f"{__name__}:OfHalves")
    subject = Subject(f"{__name__}:OfHalves", None, task, task.model())
    subject.train = task.train_data(None)
    assert "untrained" in check_metrics(subject).text


def test_a_last_batch_of_one_says_how_to_do_without(tmp_path: Path) -> None:
    """To go on would meet the same batch: no command does that is suggested."""
    run = run_of(tmp_path, "OfNorm")
    assert run.history.state == "paused"
    assert run.history.reason.endswith("begin a new run with --drop-last")
    assert run_of(tmp_path / "again", "OfNorm", drop_last=True).history.state == "finished"
