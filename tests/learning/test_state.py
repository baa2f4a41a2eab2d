import os
from collections.abc import Iterator

import pytest
import safetensors.torch
import torch
from torch import nn

from flctl.errors import CheckpointError, ParametersError, TaskError
from flctl.learning.state import checkpoint_metadata, load_into, load_state, save_state, snapshot


class Odd(nn.Module):
    """One tensor of each kind that a state dict may hold."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.f16 = nn.Parameter(torch.randn(2, 3, dtype=torch.float16))
        self.bf16 = nn.Parameter(torch.randn(5, dtype=torch.bfloat16))
        self.f64 = nn.Parameter(torch.randn(2, dtype=torch.float64))
        for dtype in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8):
            self.register_buffer(f"as_{dtype}".replace(".", "_"), torch.arange(4).to(dtype))
        self.register_buffer("mask", torch.tensor([True, False]))
        self.register_buffer("scalar", torch.tensor(2**40 + 1))
        self.register_buffer("nothing", torch.empty(0, 3))
        self.register_buffer("turned", torch.arange(6.0).reshape(2, 3).t())


@pytest.fixture
def fd(tmp_path) -> Iterator[int]:
    fd = os.open(tmp_path / "model.safetensors", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


def test_every_kind_of_tensor_comes_back_exactly(fd):
    """BatchNorm's buffers, half and brain floats, integers, booleans, views and scalars."""
    model = Odd()
    model.norm(torch.randn(4, 3))
    save_state(fd, model.state_dict())
    loaded = load_state(fd, "blob")
    assert loaded.keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor), name
    other = Odd()
    load_into(other, fd, "blob")
    assert int(other.norm.num_batches_tracked) == 1
    assert torch.equal(other.bf16, model.bf16)


def test_the_safetensors_library_reads_it(fd, tmp_path):
    """A checkpoint is an ordinary safetensors file."""
    model = Odd()
    save_state(fd, model.state_dict(), checkpoint_metadata("odd"))
    theirs = safetensors.torch.load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(theirs[name], t) for name, t in model.state_dict().items())


def test_equal_models_are_equal_bytes(tmp_path):
    """Digest and size do not depend on when, where or in which order it was written."""
    model = Odd()
    state = model.state_dict()
    backwards = dict(reversed(state.items()))
    digests = set()
    for at, tensors in enumerate((state, backwards, snapshot(model))):
        fd = os.open(tmp_path / str(at), os.O_RDWR | os.O_CREAT)
        digests.add(save_state(fd, tensors, checkpoint_metadata("odd")))
        os.close(fd)
    assert len(digests) == 1


def test_a_snapshot_is_not_changed_by_training():
    """It is a copy, not a view."""
    model = nn.Linear(2, 2)
    before = snapshot(model)
    with torch.no_grad():
        model.weight += 1
    assert not torch.equal(before["weight"], model.weight)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Linear(2, 3), r"bias F32\[2\], the model has bias F32\[3\]"),
        (nn.Linear(2, 2, bias=False), "bias is not in the model"),
        (nn.Linear(2, 2, dtype=torch.float64), r"bias F32\[2\], the model has bias F64\[2\]"),
        (nn.Sequential(nn.Linear(2, 2)), "0.bias is missing"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused(fd, model, message):
    """The first difference in name, shape or type is named, and the model stays as it was."""
    save_state(fd, nn.Linear(2, 2).state_dict())
    before = snapshot(model)
    with pytest.raises(CheckpointError, match=f"^last.safetensors: .*{message}.*another model"):
        load_into(model, fd, "last.safetensors")
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


def test_what_is_not_a_checkpoint_is_refused(fd):
    """A file of something else."""
    os.write(fd, b"PK\x03\x04 this is an archive, or some such thing")
    with pytest.raises(ParametersError, match="not a safetensors file"):
        load_state(fd, "a.zip")
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        load_into(nn.Linear(2, 2), fd, "a.zip")


def test_state_that_cannot_be_stored_is_the_tasks_fault(fd):
    """The message names the tensor."""
    with pytest.raises(TaskError, match=r"'phase' is torch.complex64"):
        save_state(fd, {"phase": torch.zeros(2, dtype=torch.complex64)})
