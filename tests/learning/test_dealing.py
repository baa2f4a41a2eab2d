from pathlib import Path

import numpy as np
import pytest
import torch

from flctl.errors import DataError, TaskError, UsageError
from flctl.learning import dealing
from flctl.learning.dealing import Plan, find_task, read_data, write_shares
from flctl.learning.ecg import Ecg
from flctl.learning.examples import Examples
from flctl.learning.mnist import Mnist
from flctl.learning.source import held_out_examples, own_parts
from flctl.learning.task import load_task
from flctl.wire.messages import Shard
from flctl.worker.jobs import DataSource

TASKS = {"ecg": Ecg(), "mnist": Mnist()}


def same(one: Examples | None, other: Examples | None) -> bool:
    """In values, types, order and groups."""
    if one is None or other is None:
        return one is other
    groups = [None if part.group is None else part.group.tolist() for part in (one, other)]
    return (
        one.x.dtype == other.x.dtype
        and torch.equal(one.x, other.x)
        and torch.equal(one.y, other.y)
        and groups[0] == groups[1]
    )


@pytest.fixture(scope="module")
def beats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """5 records of 24 beats, the last one of a patient nobody trains on."""
    rng, n = np.random.default_rng(1), 120
    path = tmp_path_factory.mktemp("beats") / "beats.npz"
    split = np.tile([0, 0, 0, 1], n // 4)
    split[96:] = 2
    np.savez(
        path,
        X=rng.integers(-300, 300, (n, 187)).astype(np.int16),
        y=rng.integers(0, 5, n),
        record=np.repeat([101, 102, 103, 104, 205], n // 5),
        split=split,
    )
    return path


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 images for training and 25 for testing, as MNIST's four files."""
    folder = tmp_path_factory.mktemp("digits")
    rng = np.random.default_rng(2)
    for part, n in (("train", 60), ("t10k", 25)):
        for name, array in (
            ("images-idx3", rng.integers(0, 256, (n, 28, 28))),
            ("labels-idx1", rng.integers(0, 10, n)),
        ):
            sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
            content = bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()
            (folder / f"{part}-{name}-ubyte").write_bytes(content)
    return folder


@pytest.fixture
def data(beats: Path, digits: Path) -> dict[str, Path]:
    return {"ecg": beats, "mnist": digits}


@pytest.mark.parametrize(
    ("task", "kind"),
    [
        *(("ecg", kind) for kind in ("iid", "label", "dirichlet", "size", "record")),
        *(("mnist", kind) for kind in ("iid", "label", "dirichlet", "size")),
    ],
)
def test_parity_12_a_folder_holds_what_a_local_agent_of_that_number_has(tmp_path, data, task, kind):
    """Training, validation and held-out examples, in the same order: those of `--shard K/4`."""
    learnt, path = TASKS[task], data[task]
    plan = Plan(of=4, partition=kind, alpha=0.3, seed=7)
    shares = write_shares(learnt, read_data(learnt, path), plan, tmp_path)
    assert list(shares) == ["pi-01", "pi-02", "pi-03", "pi-04", "test"]
    for at in range(4):
        shard = Shard(index=at, of=4, partition=kind, alpha=0.3, seed=7)
        local = DataSource(path=str(path), shard=shard)
        own = tmp_path / f"pi-{at + 1:02d}"
        there, here = own_parts(learnt, DataSource(path=str(own))), own_parts(learnt, local)
        assert all(map(same, there, here)), "training and validation"
        assert same(learnt.held_out(own), held_out_examples(learnt, local))


@pytest.mark.parametrize("kind", ["record", "iid"])
def test_a_validation_part_that_a_task_brings_is_dealt_too(tmp_path, kind):
    """Else it would be lost, and a part of what is trained on would be taken in its place."""
    task = load_task("sensors", {"learn": "class", "target": "state"})
    data = read_data(task, None)
    shares = write_shares(task, data, Plan(of=3, partition=kind, seed=7), tmp_path)
    chosen = [shares[f"pi-0{n}"].parts["validation"].examples for n in (1, 2, 3)]
    assert sum(chosen) == len(task.validation(None)) > 0
    for at in range(3):
        local = DataSource(path=None, shard=Shard(index=at, of=3, partition=kind, seed=7))
        own = tmp_path / f"pi-0{at + 1}"
        there, here = own_parts(task, DataSource(path=str(own))), own_parts(task, local)
        assert all(map(same, there, here))
        assert same(task.held_out(own), held_out_examples(task, local))


def test_a_task_that_drops_its_validation_part_is_refused(tmp_path, monkeypatch):
    """Its method 'write' may be older than its method 'validation'."""
    task = Ecg()
    validation = task.held_out(None).select(np.arange(40))
    monkeypatch.setattr(
        Ecg, "validation", lambda _, path: validation if path is None else None, raising=True
    )
    with pytest.raises(TaskError, match="does not read back"):
        write_shares(task, read_data(task, None), Plan(of=2, partition="iid"), tmp_path)


@pytest.mark.parametrize("task", TASKS)
def test_what_is_for_testing_survives(tmp_path, data, task):
    """The test folder has all parts: later beats of the same patients and the unseen ones."""
    learnt, path = TASKS[task], data[task]
    write_shares(learnt, read_data(learnt, path), Plan(of=2, partition="iid"), tmp_path)
    before, after = learnt.test_parts(path), learnt.test_parts(tmp_path / "test")
    assert list(before) == list(after)
    assert all(same(before[name], after[name]) for name in before)
    with pytest.raises(DataError):
        learnt.train_data(tmp_path / "test")


def test_without_splits_nobody_trains_on_what_is_tested(tmp_path, beats):
    """The task then tests on all beats that it has; the test folder has those held out."""
    with np.load(beats) as whole:
        path = tmp_path / "plain.npz"
        np.savez(path, X=whole["X"], y=whole["y"], record=whole["record"])
    task = Ecg()
    data = read_data(task, path)
    assert {name: len(part) for name, part in data.parts.items()} == {"train": 100, "held out": 20}
    write_shares(task, data, Plan(of=3, partition="iid"), tmp_path)
    (tested,) = task.test_parts(tmp_path / "test").values()
    assert same(tested, task.held_out(path))
    trained = [task.train_data(tmp_path / f"pi-0{n}") for n in (1, 2, 3)]
    assert sum(map(len, trained)) == 100
    rows = {row.tobytes() for part in trained for row in part.x.numpy()}
    assert not rows & {row.tobytes() for row in tested.x.numpy()}


def test_float_beats_and_names_of_records_survive(tmp_path):
    """Resampled beats are float32; a record's name is any text."""
    path = tmp_path / "own.npz"
    x = np.random.default_rng(3).normal(0, 90, (20, 187))
    np.savez(path, X=x, y=np.arange(20) % 5, record=np.repeat(["Anna B.", "ÿ/2"], 10))
    task = Ecg()
    shares = write_shares(task, read_data(task, path), Plan(of=2, partition="record"), tmp_path)
    assert task.train_data(tmp_path / "pi-01").x.dtype == torch.float32
    records = [list(shares[name].parts["train"].records) for name in ("pi-01", "pi-02")]
    assert records == [["Anna B."], ["ÿ/2"]]


def test_the_same_seed_writes_the_same_bytes_and_another_one_others(tmp_path, beats):
    """No file has a time in it."""

    def digests(name: str, seed: int) -> list[str]:
        (tmp_path / name).mkdir()
        plan = Plan(of=2, partition="iid", seed=seed)
        made = write_shares(Ecg(), read_data(Ecg(), beats), plan, tmp_path / name)
        return [file.sha256 for share in made.values() for file in share.files.values()]

    first = digests("first", 1)
    assert digests("again", 1) == first
    assert digests("other", 2)[:2] != first[:2]


def test_the_task_of_some_data_is_found(beats, digits, tmp_path):
    """The one that reads them; none is an error that says what each has found wrong."""
    assert find_task(beats)[0] == "ecg"
    assert find_task(digits)[0] == "mnist"
    with pytest.raises(DataError, match=r"no installed task reads this: ecg: .*; mnist: "):
        find_task(tmp_path)
    broken = tmp_path / "broken.csv"
    broken.write_text("1,2,3\n")
    with pytest.raises(DataError, match=r"^\S*broken.csv: 3 columns; a beat has 187"):
        find_task(broken)


def test_data_that_two_tasks_read_need_a_name(beats, monkeypatch):
    """Rather than a guess."""
    monkeypatch.setattr(dealing, "known_tasks", lambda: {"ecg": "", "more": ""})
    monkeypatch.setattr(dealing, "load_task", lambda _: Ecg())
    with pytest.raises(UsageError, match="ecg and more read this; say which with --task"):
        find_task(beats)


def test_a_file_for_testing_only_can_be_read_but_not_dealt(beats, tmp_path):
    """The reason is the task's own."""
    write_shares(Ecg(), read_data(Ecg(), beats), Plan(of=2, partition="iid"), tmp_path)
    data = read_data(Ecg(), tmp_path / "test")
    assert list(data.parts) == ["later", "unseen"]
    (tmp_path / "more").mkdir()
    with pytest.raises(DataError, match="no beats for training"):
        write_shares(Ecg(), data, Plan(of=2, partition="iid"), tmp_path / "more")


def test_a_task_that_does_not_write_says_so(blobs, tmp_path):
    """It names the task and the method."""
    with pytest.raises(TaskError, match=r"task 'blobs' cannot write data: .* method 'write'"):
        write_shares(blobs, read_data(blobs, None), Plan(of=2, partition="iid"), tmp_path)


def test_what_a_task_writes_is_read_back_before_anybody_trusts_it(blobs, tmp_path, monkeypatch):
    """A method that writes something else, or raises, is the task's fault in one line."""

    def crash(*_: object) -> None:
        raise ZeroDivisionError("by\nzero")

    plan, data = Plan(of=2, partition="iid"), read_data(blobs, None)
    monkeypatch.setattr(type(blobs), "write", lambda *_: None)
    with pytest.raises(TaskError, match="'blobs' does not read back what its method 'write'"):
        write_shares(blobs, data, plan, tmp_path)
    (tmp_path / "pi-01").rmdir()
    monkeypatch.setattr(type(blobs), "write", crash)
    with pytest.raises(TaskError, match="cannot write data: ZeroDivisionError: by zero"):
        write_shares(blobs, data, plan, tmp_path)
