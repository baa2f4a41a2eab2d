"""Weights that a run begins with: from which files, and what is said of those that do not fit."""

import hashlib
import pickle
import re
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from flctl.errors import CheckpointError, DataError, OwnerRefuses
from flctl.learning.ecg import Ecg
from flctl.learning.state import save_state
from flctl.learning.task import initial_model
from flctl.learning.warm import begin_from, expect_own
from flctl.learning.whole import frozen_of


def net(classes: int = 3) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, classes))


@pytest.fixture
def taught() -> nn.Module:
    torch.manual_seed(5)
    return net()


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def write(taught: nn.Module, path: Path, form: str) -> None:
    state = taught.state_dict()
    if form == "flctl":
        with path.open("w+b") as file:
            save_state(file.fileno(), state, {"task": "x"})
    elif form == "safetensors":
        safetensors.torch.save_file(state, path, metadata={"format": "pt"})
    elif form == "old":
        torch.save(state, path, _use_new_zipfile_serialization=False)
    elif form == "checkpoint":
        torch.save({"epoch": 3, "state_dict": state, "optimizer": {"lr": 0.1}}, path)
    else:
        torch.save(state, path)


@pytest.mark.parametrize("form", ["flctl", "safetensors", "pt", "old", "checkpoint"])
def test_all_weights_come_from_the_file(taught, tmp_path, form):
    """By any program; the file is recorded by its name and its digest."""
    path = tmp_path / "weights.any"
    write(taught, path, form)
    model = net()
    begun = begin_from(model, path, partial=False)
    assert same(model, taught)
    assert begun.source == "weights.any" and (begun.tensors, begun.of) == (9, 9)
    assert begun.digest == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("form", ["safetensors", "pt"])
def test_what_does_not_fit_is_named_in_one_line(taught, tmp_path, form):
    """Missing, unexpected, of another shape or type, each by name; the model stays as it is."""
    path = tmp_path / "weights"
    write(taught, path, form)
    torch.manual_seed(1)
    norm = nn.BatchNorm1d(8, track_running_stats=False).half()
    model = nn.Sequential(nn.Linear(4, 8), norm, nn.Linear(8, 5), nn.PReLU())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(DataError) as caught:
        begin_from(model, path, partial=False)
    said = str(caught.value)
    assert said.startswith(f"{path}: does not fit the task's model: missing: 3.weight; ")
    assert "unexpected: 1.num_batches_tracked, 1.running_mean, 1.running_var; " in said
    assert "of another shape or type: 1.bias F32[8] (here F16[8])" in said
    assert "2.bias F32[3] (here F32[5]) and 1 more" in said and "\n" not in said
    assert "--from-partial takes the 2 of 7 tensors that fit" in said
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    begun = begin_from(model, path, partial=True)
    assert (begun.tensors, begun.of) == (2, 7)
    assert torch.equal(model[0].weight, taught[0].weight)
    assert torch.equal(model[2].weight, before["2.weight"])


def test_a_file_of_which_nothing_fits_is_refused_with_partial_too(taught, tmp_path):
    torch.save({"other": torch.zeros(3)}, tmp_path / "w.pt")
    with pytest.raises(DataError, match="no tensor of it fits the task's model: missing: "):
        begin_from(taught, tmp_path / "w.pt", partial=True)


class Evil:
    def __reduce__(self):
        return Path.touch, (Path("ran"),)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (pickle.dumps(Evil()), "neither safetensors nor a plain state dict"),
        (b"", "neither safetensors nor a plain state dict"),
        (b"\x08" + bytes(7) + b"{x", "not a safetensors file"),
        (b"PK\x05\x06" + bytes(18), "neither safetensors nor a plain state dict"),
    ],
)
def test_what_is_no_model_is_refused(taught, tmp_path, monkeypatch, content, why):
    """And no code in it runs."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "w.pt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=why) as caught:
        begin_from(taught, path, partial=False)
    assert "\n" not in str(caught.value) and not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "found", [[1, 2], {}, {"a": 1}, {1: torch.zeros(1)}, torch.zeros(3), {"a\nb": torch.zeros(1)}]
)
def test_what_torch_has_saved_must_be_a_state_dict(taught, tmp_path, found):
    torch.save(found, tmp_path / "w.pt")
    with pytest.raises(DataError, match="holds no plain state dict"):
        begin_from(taught, tmp_path / "w.pt", partial=False)


def test_a_file_is_bounded_by_the_model(taught, tmp_path):
    """Also one that is packed, and a folder is no file."""
    path = tmp_path / "large.pt"
    with path.open("wb") as file:
        file.truncate(65 * 2**20)
    with pytest.raises(DataError, match=r"65\.0 MiB, more than 64\.0 MiB"):
        begin_from(taught, path, partial=False)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("a/data.pkl", bytes(65 * 2**20))
    assert path.stat().st_size < 2**20
    with pytest.raises(DataError, match=r"unpacked 65\.0 MiB, too large"):
        begin_from(taught, path, partial=False)
    for name, why in (("gone.pt", "no such file"), (".", "is not a file")):
        with pytest.raises(DataError, match=why):
            begin_from(taught, tmp_path / name, partial=False)


def test_a_runs_own_first_model_is_known_from_a_brought_one():
    """The task's of that seed, also as another processor rounds it; any other is refused."""
    task = Ecg()
    own = initial_model(task, 3).state_dict()
    expect_own(task, own, 3)
    expect_own(task, {name: tensor * (1 + 1e-6) for name, tensor in own.items()}, 3)
    for change in (lambda t: t * 1.01, lambda t: t[:1], lambda t: t.double()):
        name = next(name for name in own if name.endswith("weight"))
        with pytest.raises(OwnerRefuses, match=rf"tensor {re.escape(name)}\).*--accept-weights"):
            expect_own(task, {**own, name: change(own[name])}, 3)
    with pytest.raises(OwnerRefuses):
        expect_own(task, own, 4)


@pytest.mark.parametrize("form", ["flctl", "safetensors", "pt"])
def test_weights_that_are_no_numbers_are_named_with_their_file(taught, tmp_path, form):
    """It is the file's fault, not the task's; buffers may hold others."""
    taught[1].running_var[0] = torch.inf
    write(taught, tmp_path / "w", form)
    begin_from(net(), tmp_path / "w", partial=False)
    taught[2].bias.data[1] = torch.nan
    write(taught, tmp_path / "w", form)
    with pytest.raises(DataError, match=r"w: tensor 2\.bias holds NaN or infinite numbers"):
        begin_from(net(), tmp_path / "w", partial=False)


@pytest.mark.parametrize(
    ("place", "source"),
    [
        ("ecg-2026/rounds/0007/model.safetensors", "run ecg-2026, round 7"),
        ("ecg-2026/rounds/best/model.safetensors", "model.safetensors"),
        ("rounds/7/other.safetensors", "other.safetensors"),
    ],
)
def test_weights_of_a_run_are_called_by_its_round(taught, tmp_path, monkeypatch, place, source):
    """Wherever the command runs; a folder of that form that is no run's is none."""
    path = tmp_path / place
    path.parent.mkdir(parents=True)
    write(taught, path, "flctl")
    assert begin_from(net(), path, partial=False).source == source
    monkeypatch.chdir(path.parent)
    assert begin_from(net(), Path(path.name), partial=False).source == source


def test_a_frozen_part_of_another_run_is_not_taken(tmp_path):
    """A model that was copied into another run's folder is refused, not completed wrongly."""
    model = tmp_path / "rounds/0001/model.safetensors"
    model.parent.mkdir(parents=True)
    with model.open("w+b") as file:
        save_state(file.fileno(), {"a": torch.zeros(1)}, {"task": "x", "frozen": "0" * 64})
    with pytest.raises(CheckpointError, match="only the tensors that train"):
        frozen_of(model)
    with (tmp_path / "frozen.safetensors").open("w+b") as file:
        save_state(file.fileno(), {"b": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="not the rest of"):
        frozen_of(model)
