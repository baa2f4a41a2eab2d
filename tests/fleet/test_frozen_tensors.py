"""A model of which only the last layer trains: the rest travels once, and never up."""

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flctl.coordinator.store.folder import RunFolder
from flctl.errors import CheckpointError
from flctl.fleet.replay import replay
from flctl.fleet.virtual import VirtualRun
from flctl.learning.classification import Classification
from flctl.learning.examples import Examples
from flctl.learning.state import load_state
from flctl.learning.whole import frozen_of
from flctl.wire.parameters import ParameterFile

HEAD = {"head.weight", "head.bias"}


class Backbone(nn.Module):
    """Large, with batch norm, dropout and a mask without parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(8, 600), nn.BatchNorm1d(600), nn.ReLU(), nn.Dropout(0.5),
            nn.BatchNorm1d(600, affine=False),
        )  # fmt: skip
        self.body[1].running_mean += 0.3
        self.head = nn.Linear(600, 4)
        self.body.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))  # type: ignore[no-any-return]


class Points(Classification):
    name = "points"
    classes = ("a", "b", "c", "d")
    defaults = {"batch_size": 16, "lr": 0.02, "epochs": 2}  # noqa: RUF012

    def model(self) -> nn.Module:
        return Backbone()

    def train_data(self, path: Path | None) -> Examples:
        return points(1, 320)

    def held_out(self, path: Path | None) -> Examples:
        return points(2, 400)


def points(seed: int, count: int) -> Examples:
    draw = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 4, (count,), generator=draw)
    x = torch.randn((count, 8), generator=draw) + 2 * nn.functional.one_hot(y, 8)
    return Examples(x, y, classes=4, where="made up")


def run(state: Path, **given: Any) -> VirtualRun:
    wanted = {"task": f"{__name__}:Points", "virtual": 4, "rounds": 3, "seed": 3, **given}
    made = VirtualRun.start(state, wanted, "the test")
    history = made.run()
    assert history.state == "finished", history.reason
    return made


def tensors(path: Path) -> dict[str, Tensor]:
    with path.open("rb") as file:
        return load_state(file.fileno(), str(path))


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def test_the_rounds_have_only_what_trains_and_the_rest_is_there_once(tmp_path: Path):
    made = run(tmp_path)
    folder, history = made.folder, made.history
    assert set(tensors(folder.model_path(2))) == HEAD
    frozen = tensors(folder.frozen_path)
    assert {"body.1.running_mean", "body.4.num_batches_tracked"} <= set(frozen)
    assert history.started is not None and history.started.frozen == digest(folder.frozen_path)
    part = next(iter(history.rounds[-1].participants.values()))
    last_layer = 4 * (600 * 4 + 4)
    assert part.bytes_up <= 1.05 * last_layer
    whole = tensors(folder.path / "last.safetensors")
    assert same(whole, frozen | tensors(folder.model_path(3)))
    assert folder.checkpoint(history) == folder.path / "last.safetensors"


def test_what_is_frozen_never_moves_and_the_rest_learns_as_in_plain_pytorch(tmp_path: Path):
    made = run(tmp_path, virtual=1, rounds=6, keep_rounds=0)
    whole = tensors(made.folder.path / "last.safetensors")
    first = tensors(made.folder.frozen_path) | tensors(made.folder.model_path(0))
    model, (x, y) = Backbone(), (points(1, 320).x, points(1, 320).y)
    model.load_state_dict(first)
    model.body.eval()
    optimizer = torch.optim.SGD(model.head.parameters(), lr=0.02)
    torch.manual_seed(7)
    for _ in range(12 * 17):
        batch = torch.randint(0, 272, (16,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
        optimizer.step()
    plain = model.state_dict()
    assert same({n: whole[n] for n in plain if n not in HEAD},
                {n: first[n] for n in plain if n not in HEAD})  # fmt: skip
    test, found = points(2, 400), {}
    for name, state in (("flctl", whole), ("plain", plain)):
        model.load_state_dict(state)
        with torch.no_grad():
            found[name] = (model.eval()(test.x).argmax(1) == test.y).float().mean().item()
    assert found["flctl"] == pytest.approx(found["plain"], abs=0.01)
    assert found["flctl"] > 0.7


@pytest.mark.parametrize("compression", ["none", "topk", "int8"])
def test_jobs_and_a_replay_make_the_same_bytes(tmp_path: Path, compression: str):
    one = run(tmp_path / "one", compression=compression, strategy="fedadam")
    two = run(tmp_path / "two", compression=compression, strategy="fedadam", jobs=2)
    assert one.history.base == two.history.base
    rows = replay(one.folder, {})
    assert [row.same for row in rows] == [True] * 4


def test_a_stopped_run_goes_on_with_the_same_bytes(tmp_path: Path):
    undisturbed = run(tmp_path / "undisturbed")
    rounds = 0

    def between() -> None:
        nonlocal rounds
        rounds += 1
        if rounds == 7:  # in the second round
            raise KeyboardInterrupt("the test")

    wanted = {"task": f"{__name__}:Points", "virtual": 4, "rounds": 3, "seed": 3}
    begun = VirtualRun.start(tmp_path / "stopped", wanted, "the test", between=between)
    with pytest.raises(KeyboardInterrupt):
        begun.run()
    assert same(
        tensors(begun.folder.checkpoint(begun.history)),
        tensors(begun.folder.frozen_path) | tensors(begun.folder.model_path(1)),
    )
    history = VirtualRun(RunFolder(begun.folder.path)).run()
    assert history.base == undisturbed.history.base
    assert digest(begun.folder.path / "last.safetensors") == digest(
        undisturbed.folder.path / "last.safetensors"
    )


def test_a_run_begins_with_the_whole_model_of_another(tmp_path: Path):
    made = run(tmp_path)
    again = run(tmp_path, from_=made.folder.name, rounds=1)
    assert digest(again.folder.model_path(0)) == digest(made.folder.model_path(3))
    assert digest(again.folder.frozen_path) == digest(made.folder.frozen_path)
    assert all(row.same for row in replay(again.folder, {}))


def test_a_damaged_frozen_part_pauses_the_run(tmp_path: Path):
    made = run(tmp_path, rounds=1)
    copy = RunFolder(shutil.copytree(made.folder.path, tmp_path / "runs" / "copy"))
    lines = copy.journal_path.read_bytes().splitlines(keepends=True)
    copy.journal_path.write_bytes(b"".join(lines[:-1]))  # as if it had not ended
    data = bytearray(copy.frozen_path.read_bytes())
    data[-1] ^= 1
    copy.frozen_path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"frozen\.safetensors: damaged"):
        VirtualRun(copy).run()


def test_a_part_taken_out_of_its_run_says_what_to_do(tmp_path: Path):
    made = run(tmp_path, rounds=1)
    assert frozen_of(made.folder.model_path(1)) == made.folder.frozen_path
    alone = tmp_path / "alone" / "far" / "away" / "deep.safetensors"
    alone.parent.mkdir(parents=True)
    shutil.copyfile(made.folder.model_path(1), alone)
    with pytest.raises(CheckpointError, match="flctl runs export RUN --format safetensors"):
        frozen_of(alone)


def test_a_model_that_freezes_nothing_is_one_file_as_before(tmp_path: Path):
    made = run(tmp_path, task=f"{__name__}:Plain", rounds=1)
    with made.folder.model_path(1).open("rb") as file:
        metadata = ParameterFile(file.fileno(), "model").metadata
    assert metadata == {"task": f"{__name__}:Plain", "format": 1}
    assert not made.folder.frozen_path.exists()
    assert (made.folder.path / "last.safetensors").samefile(made.folder.model_path(1))


class Plain(Points):
    def model(self) -> nn.Module:
        return nn.Linear(8, 4)
