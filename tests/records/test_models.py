"""Checkpoints for other programs: each is read back with that program."""

import json

import pytest
import torch
from torch import nn

from flctl.errors import FlctlError, TaskError
from flctl.learning.ecg import Ecg
from flctl.learning.groups import Groups, save_first
from flctl.learning.guard import guarded
from flctl.records import models


class Statistics(nn.Module):
    """Parameters of two types, and a buffer."""

    def __init__(self):
        super().__init__()
        self.short = nn.Parameter(torch.randn(3, dtype=torch.bfloat16))
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x):
        if float(x.sum()) > 1e9:  # which way to go depends on the data
            return x
        return self.norm(x)


class Own(Ecg):
    name = "own"

    def model(self):
        return Statistics()


def checkpoint(path, task, model):
    with path.open("wb") as file:
        save_first(file.fileno(), task.name, model, Groups.of(task, model), {})
    return path


@pytest.mark.parametrize("task", [Ecg(), Own()])
def test_parity_18_a_pt_is_a_plain_state_dict(tmp_path, task):
    """`torch.load(weights_only=True)` takes it, and the task's model takes all of it."""
    model, path = task.model(), tmp_path / "model.pt"
    models.save_pt(checkpoint(tmp_path / "model", task, model), path)
    state = torch.load(path, weights_only=True)
    assert type(state) is dict
    assert task.model().load_state_dict(state, strict=True).missing_keys == []
    for name, tensor in model.state_dict().items():
        assert torch.equal(state[name], tensor) and state[name].dtype == tensor.dtype


def test_what_is_no_checkpoint(tmp_path):
    """Nothing is left of the attempt."""
    (tmp_path / "model").write_bytes(b"PK\3\4" * 9)
    with pytest.raises(FlctlError, match="model"):
        models.save_pt(tmp_path / "model", tmp_path / "model.pt")
    assert list(tmp_path.iterdir()) == [tmp_path / "model"]


def test_onnx_computes_the_same(tmp_path):
    """In ONNX Runtime, for batches of any size; the names of the classes travel with it."""
    import onnx
    import onnxruntime

    task, target = guarded(Ecg()), tmp_path / "model.onnx"
    torch.manual_seed(1)
    model = task.model().eval()
    example = models.example_input(task, None)
    assert example.shape[0] == 2
    models.save_onnx(task, checkpoint(tmp_path / "model", task, model), example, target)
    onnx.checker.check_model(target, full_check=True)
    about = {prop.key: prop.value for prop in onnx.load(target).metadata_props}
    assert (about["task"], json.loads(about["classes"])) == ("ecg", list(task.classes))
    session = onnxruntime.InferenceSession(target)
    for n in (1, 5):
        x = torch.randn(n, *example.shape[1:])
        with torch.no_grad():
            expected = model(x)
        (scores,) = session.run(["scores"], {"input": x.numpy()})
        assert torch.allclose(torch.from_numpy(scores), expected, atol=1e-4)


def test_a_model_that_onnx_cannot_express(tmp_path, capfd):
    """One line with the place in the task's own file, and nothing else on the terminal."""
    task = guarded(Own())
    task.classes = tuple("abcd")
    path = checkpoint(tmp_path / "model", task, task.model())
    with pytest.raises(TaskError) as caught:
        models.save_onnx(task, path, torch.zeros(2, 4), tmp_path / "model.onnx")
    assert str(caught.value).startswith("the model of task 'own' cannot be exported to ONNX: ")
    assert "\n" not in str(caught.value) and "(test_models.py, line " in str(caught.value)
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == [tmp_path / "model"]
