"""A model of which a part never leaves its agent."""

import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flctl.coordinator.store.folder import RunFolder
from flctl.core.history import History
from flctl.errors import CheckpointError, SettingsError, TaskError, UsageError
from flctl.fleet.backup import Stream
from flctl.fleet.driving import drive_local
from flctl.fleet.replay import replay
from flctl.fleet.virtual import VirtualRun
from flctl.learning.classification import Classification
from flctl.learning.examples import Examples
from flctl.learning.positions import files_in
from flctl.learning.state import load_into, load_state
from flctl.learning.whole import private_path
from flctl.transport.hub import ZeroMqHub
from flctl.wire.parameters import ParameterFile

ROUNDS = 4


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Tanh())
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))  # type: ignore[no-any-return]


class Heads(Classification):
    """FedPer: a common body, and a head for each agent."""

    name = "heads"
    classes = ("a", "b", "c", "d")
    private = ("head.*",)
    defaults = {"batch_size": 16, "lr": 0.1, "epochs": 2}  # noqa: RUF012

    def model(self) -> nn.Module:
        return Net()

    def train_data(self, path: Path | None) -> Examples:
        return points(1, 320)

    def held_out(self, path: Path | None) -> Examples:
        return points(2, 400)


class Norms(Heads):
    """FedBN: a common network, and norms for each agent."""

    private = ("body.1.*",)


class Misspelt(Heads):
    private = ("haed.*",)


class All(Heads):
    private = ("*",)


class Nothing(Heads):
    """A frozen body and a private head."""

    def model(self) -> nn.Module:
        net = Net()
        net.body.requires_grad_(False)
        return net


class Frozen(Heads):
    """A part of each kind."""

    def model(self) -> nn.Module:
        net = Net()
        net.body[0].requires_grad_(False)
        return net


def points(seed: int, count: int) -> Examples:
    draw = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 4, (count,), generator=draw)
    x = torch.randn((count, 8), generator=draw) + 2 * nn.functional.one_hot(y, 8)
    return Examples(x, y, classes=4, where="made up")


def settings(task: str = "Heads", **given: Any) -> dict[str, Any]:
    return {"task": f"{__name__}:{task}", "virtual": 3, "rounds": ROUNDS, "seed": 3, **given}


def run(state: Path, **given: Any) -> VirtualRun:
    made = VirtualRun.start(state, settings(**given), "the test")
    history = made.run()
    assert history.state == "finished", history.reason
    return made


def private(folder: RunFolder) -> dict[str, str]:
    """Digest of the newest private tensors of each agent."""
    found = {}
    for path in sorted((folder.path / ".private").iterdir()):
        newest = files_in(path)[-1]
        assert newest.stat().st_mode & 0o777 == 0o600
        found[path.name] = f"{newest.stem} {hashlib.sha256(newest.read_bytes()).hexdigest()}"
    return found


def tensors(path: Path) -> dict[str, Tensor]:
    with path.open("rb") as file:
        return load_state(file.fileno(), str(path))


def secrets(folder: RunFolder) -> Iterator[bytes]:
    """Bytes of every float tensor that any agent has kept for itself."""
    for path in (folder.path / ".private").glob("*/*.safetensors"):
        for tensor in tensors(path).values():
            data = tensor.numpy().tobytes()
            if tensor.is_floating_point() and len(set(data)) > 8:
                yield data[: 4 * 12]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> VirtualRun:
    return run(tmp_path_factory.mktemp("undisturbed"))


def test_the_global_model_has_no_private_tensor_and_each_agent_its_own(undisturbed: VirtualRun):
    folder = undisturbed.folder
    names = set(tensors(folder.model_path(ROUNDS)))
    assert names and not {name for name in names if name.startswith("head.")}
    with folder.model_path(ROUNDS).open("rb") as file:
        metadata = ParameterFile(file.fileno(), "model").metadata
    assert metadata["private"] == ["head.bias", "head.weight"]
    assert len(set(private(folder).values())) == 3
    score = undisturbed.history.rounds[-1].metrics
    assert score is not None and score.source == "agents" and len(score.beside) == 3
    assert score.values["accuracy"] > 0.6
    started = undisturbed.history.started
    assert started is not None and started.private is not None


@pytest.mark.parametrize("compression", ["none", "topk"])
def test_processes_and_a_replay_make_the_same_bytes(tmp_path: Path, compression: str):
    one = run(tmp_path / "one", compression=compression)
    two = run(tmp_path / "two", compression=compression, jobs=2)
    assert one.history.base == two.history.base
    assert private(one.folder) == private(two.folder)
    scores = [[r.metrics for r in made.history.rounds] for made in (one, two)]
    assert scores[0] == scores[1]
    assert all(row.same for row in replay(one.folder, {}))


@pytest.mark.parametrize("calls", range(1, 3 * ROUNDS, 2))
def test_a_run_that_is_stopped_anywhere_goes_on_with_the_same_bytes(
    tmp_path: Path, undisturbed: VirtualRun, calls: int
):
    left = calls

    def between() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt("the test")

    made = VirtualRun.start(tmp_path, settings(), "the test", between=between)
    with pytest.raises(KeyboardInterrupt):
        made.run()
    # What it has done of the open round is done again, as after kill -9 before its journal's line.
    lines = made.folder.journal_path.read_bytes().splitlines(keepends=True)
    updates = [n for n, line in enumerate(lines) if b'"event":"update"' in line]
    made.folder.journal_path.write_bytes(b"".join(lines[: updates[-1]] if updates else lines[:-1]))
    history = VirtualRun(RunFolder(made.folder.path)).run()
    assert history.base == undisturbed.history.base
    assert private(made.folder) == private(undisturbed.folder)
    assert history.rounds[-1].metrics == undisturbed.history.rounds[-1].metrics


@pytest.mark.parametrize("back", [1, 2])
def test_withdrawn_rounds_are_done_again_from_the_private_tensors_of_then(
    tmp_path: Path, undisturbed: VirtualRun, back: int
):
    made = run(tmp_path)
    folder = made.folder
    lines = folder.journal_path.read_bytes().splitlines(keepends=True)
    folder.journal_path.write_bytes(b"".join(lines[:-1]))
    for round_id in range(ROUNDS - back + 1, ROUNDS + 1):
        folder.model_path(round_id).unlink()
    history = VirtualRun(RunFolder(folder.path)).run()
    assert history.base == undisturbed.history.base
    assert private(folder) == private(undisturbed.folder)
    assert not any(p.private_lost for r in history.rounds for p in r.participants.values())


def test_a_dead_card_costs_the_private_tensors_and_is_on_record(tmp_path: Path, caplog):
    """The run goes on, and can be computed again."""
    count = 0

    def between() -> None:
        nonlocal count
        count += 1
        if count == 3 * 2 + 1:  # before the third round
            (folder,) = (tmp_path / "runs").iterdir()
            shutil.rmtree(folder / ".private" / "pi-02")

    made = VirtualRun.start(tmp_path, settings(), "the test", between=between)
    history = made.run()
    assert history.state == "finished"
    whole = made.folder.history()
    lost = [(r.round, a) for r in whole.rounds for a, p in r.participants.items() if p.private_lost]
    assert lost == [(3, "pi-02")]
    assert "private tensors are lost" in caplog.text
    assert all(row.same for row in replay(made.folder, {}))


def test_damaged_private_tensors_are_lost_too(tmp_path: Path):
    count = 0

    def between() -> None:
        nonlocal count
        count += 1
        if count == 4:  # before the second round
            (folder,) = (tmp_path / "runs").iterdir()
            (path,) = files_in(folder / ".private" / "pi-01")
            path.write_bytes(path.read_bytes()[:-1])

    VirtualRun.start(tmp_path, settings(rounds=2), "the test", between=between).run()
    (folder,) = (tmp_path / "runs").iterdir()
    second = RunFolder(folder).history().rounds[1]
    assert {a for a, p in second.participants.items() if p.private_lost} == {"pi-01"}


def test_on_a_local_fleet_nothing_private_leaves_an_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: VirtualRun, capfd
):
    """The same bytes as of virtual clients, and none of them on the wire, in the state folder of
    the coordinator, in its backup or in a log."""
    heard = bytearray()
    receive = ZeroMqHub.receive

    def listen(hub: Any) -> Any:
        for incoming in receive(hub):
            heard.extend(b"".join(bytes(frame) for frame in incoming.frames))
            yield incoming

    monkeypatch.setattr(ZeroMqHub, "receive", listen)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent)]))
    given = settings() | {"local": 3}
    del given["virtual"]
    result = drive_local(tmp_path, given, "the test", lambda _: None, verbose=True)
    assert result.state == "finished", result.reason
    folder = RunFolder.find(tmp_path, result.run)
    history: History = folder.history()
    assert history.base == undisturbed.history.base
    assert private(folder) == private(undisturbed.folder)
    assert history.rounds[-1].metrics == undisturbed.history.rounds[-1].metrics
    told = capfd.readouterr()
    backup, stream = bytearray(), Stream(tmp_path)
    while data := stream.read(1 << 16):
        backup += data
    kept = b"".join(
        path.read_bytes()
        for path in sorted(tmp_path.rglob("*"))
        if path.is_file() and ".private" not in path.parts
    )
    places = {
        "wire": bytes(heard), "state": kept, "backup": bytes(backup),
        "logs": (told.out + told.err).encode(errors="surrogateescape"),
    }  # fmt: skip
    found = list(secrets(folder))
    assert len(found) >= 9
    shared = tensors(folder.model_path(ROUNDS))["body.0.weight"].numpy().tobytes()[:48]
    assert shared in kept and shared in backup, "the test finds what is there"
    for place, data in places.items():
        assert data
        for secret in found:
            assert secret not in data, place


def test_norms_alone_can_be_private(tmp_path: Path):
    made = run(tmp_path, task="Norms")
    names = set(tensors(made.folder.model_path(ROUNDS)))
    assert {n for n in names if n.startswith("body.1")} == set()
    score = made.history.rounds[-1].metrics
    assert score is not None and score.values["accuracy"] > 0.6


def test_a_model_can_have_a_part_of_each_kind(tmp_path: Path):
    one, two = run(tmp_path / "one", task="Frozen"), run(tmp_path / "two", task="Frozen", jobs=2)
    assert set(tensors(one.folder.frozen_path)) == {"body.0.weight", "body.0.bias"}
    assert one.history.base == two.history.base
    assert private(one.folder) == private(two.folder)


def test_a_checkpoint_without_its_private_tensors_says_so(undisturbed: VirtualRun):
    path = undisturbed.folder.path / "last.safetensors"
    own = files_in(private_path(undisturbed.folder.path, "pi-02"))[-1]
    model = Net()
    with path.open("rb") as file:
        with pytest.raises(CheckpointError, match=r"is without head.bias, head.weight.*--private"):
            load_into(model, file.fileno(), str(path))
        load_into(model, file.fileno(), str(path), own)
    assert torch.equal(model.head.weight, tensors(own)["head.weight"])


def test_nothing_to_train_together_is_found_before_a_run(
    flctl: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    ref = f"{__name__}:Nothing"
    done = flctl("tasks", "check", ref)
    assert done.code == 1 and "problem  task 'heads': nothing of its model that trains" in done.out
    for kind in ("--virtual", "--local"):
        done = flctl("train", "--task", ref, kind, 2)
        assert done.code == 2 and "leave a layer that is neither" in done.complaint


@pytest.mark.parametrize(
    ("given", "kind", "why"),
    [
        ({"evaluate": "coordinator"}, SettingsError, "only agents can measure"),
        ({"test_data": "."}, SettingsError, "only agents can measure"),
        (
            {"task": "Misspelt"},
            TaskError,
            r"'haed\.\*' fits no tensor of its model; there are body",
        ),
        ({"task": "All"}, UsageError, "that trains is shared: it is private; leave"),
        ({"task": "Nothing"}, UsageError, "that trains is shared: it is frozen or private"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    tmp_path: Path, given: dict[str, Any], kind: type[Exception], why: str
):
    with pytest.raises(kind, match=why) as refused:
        VirtualRun.start(tmp_path, settings(**given), "the test")
    assert "\n" not in str(refused.value)
