"""`flctl runs export`, `flctl runs plot` and `flctl train --tensorboard`, on a small run."""

import csv
import json
import os
import resource
import shutil
import signal
from pathlib import Path

import pytest
import torch

from flctl.coordinator.store.folder import RunFolder
from flctl.learning.ecg import Ecg
from flctl.records.plots.style import picture
from flctl.wire.parameters import ParameterFile, dump

RUN = ("train", "--task", "ecg", "--epochs", 1, "--rounds", 3)


@pytest.fixture
def train(flctl, beats, tmp_path, monkeypatch):
    """Makes a run in tmp_path/state, with tmp_path as the current folder."""
    monkeypatch.chdir(tmp_path)

    def run(*more, agents=("--virtual", 2)):
        done = flctl(*RUN, *agents, "--data", beats(), *more)
        assert (done.code, done.err) == (0, "")
        (path,) = (tmp_path / "state" / "runs").iterdir()
        return RunFolder(path)

    return run


@pytest.fixture
def run(train):
    return train()


def steps(folder):
    """Tag → steps of all points, in order."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    found.Reload()
    return {tag: [point.step for point in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def test_each_format_has_a_name_of_its_own_beside_the_others(run, flctl, tmp_path):
    """In the current folder, and printed."""
    named = {
        ("pt",): f"{run.name}.pt",
        ("pt", "--which", "best"): f"{run.name}-best.pt",
        ("safetensors", "--which", 2): f"{run.name}-2.safetensors",
        ("csv",): f"{run.name}.csv",
        ("csv", "--per-agent"): f"{run.name}-agents.csv",
        ("tensorboard",): f"tensorboard/{run.name}",
    }
    for args, name in named.items():
        done = flctl("runs", "export", run.name[:-1], "--format", *args)
        assert (done.code, done.err) == (0, "")
        assert f" in {name}" in done.out
        assert (tmp_path / name).exists()
    state = torch.load(f"{run.name}.pt", weights_only=True)
    Ecg().model().load_state_dict(state, strict=True)
    with (tmp_path / f"{run.name}.csv").open() as file:
        assert [row["round"] for row in csv.DictReader(file)] == ["1", "2", "3"]
    with (tmp_path / f"{run.name}-agents.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 6


def test_a_table_goes_to_standard_output_alone(run, flctl, tmp_path):
    done = flctl("runs", "export", run.name, "--format", "csv", "--out", "-")
    assert (done.code, done.err) == (0, "")
    assert [row["round"] for row in csv.DictReader(done.out.splitlines())] == ["1", "2", "3"]
    assert not (tmp_path / "-").exists()


def test_parity_18_the_model_of_any_round_that_is_kept(run, flctl, tmp_path):
    """By best, last or its number, byte for byte but for the correction in its metadata; what is
    gone is said, with what there is."""
    history = run.history()
    rounds = {"last": 3, "best": history.best.round, 1: 1, 2: 2, 3: 3}
    for which, round_id in rounds.items():
        done = flctl("runs", "export", run.name, "--format", "safetensors", "--which", which,
                     "--out", tmp_path / "model", "--json")  # fmt: skip
        assert json.loads(done.out) == {
            "run": run.name, "format": "safetensors", "path": str(tmp_path / "model"),
            "round": round_id,
        }  # fmt: skip
        with (tmp_path / "model").open("rb") as file:
            exported = ParameterFile(file.fileno(), "exported")
            tensors = {s.name: (s.dtype, exported.read(s).reshape(s.shape)) for s in exported.specs}
        assert exported.metadata.pop("correction")
        assert dump(bytearray(), tensors, exported.metadata)[0] == history.model_of(round_id)
    gone = flctl("runs", "export", run.name, "--format", "pt", "--which", 0)
    assert (gone.code, gone.complaint) == (
        2, f"run {run.name}: the model of round 0 is not kept; there is that of 1, 2, 3",
    )  # fmt: skip


def test_the_best_outlives_its_round(run, flctl):
    """Its own file stays when that of its round is removed."""
    best = run.history().best.round
    run.model_path(best).unlink()
    assert flctl("runs", "export", run.name, "--format", "pt", "--which", best).code == 0
    run.path.joinpath("best.safetensors").write_bytes(b"damaged")
    done = flctl("runs", "export", run.name, "--format", "pt", "--which", "best")
    assert done.code == 1
    assert done.complaint.endswith("damaged: its sha256 is not the one in the journal")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("pickle",), "--format pickle: write pt, safetensors, onnx, csv or tensorboard"),
        (("csv", "--which", "best"), "--which applies to models; csv has all rounds"),
        (("pt", "--per-agent"), "--per-agent requires --format csv"),
        (("pt", "--out", "-"), "--out -: only csv can go to standard output; name a path for pt"),
        (("pt", "--data", "x"), "--data requires --format onnx"),
        (("onnx", "--data", "nothing"), "--data nothing: no such file or folder"),
        (("pt", "--which", "first"), "--which first: write best, last or the number of a round"),
        (("pt", "--which", 9), "ends with round 3"),
        (("pt", "--out", "."), "is a folder; name a file in it"),
        (("pt", "--out", "pipe"), "/pipe: not a regular file"),
        (("csv", "--out", "pipe"), "/pipe: not a regular file"),
        (("tensorboard", "--out", "pipe"), "/pipe: is no folder"),
    ],
)
def test_what_does_not_go_together(run, flctl, tmp_path, args, words):
    """One line, exit code 2, and a pipe stays a pipe."""
    os.mkfifo("pipe")
    done = flctl("runs", "export", run.name, "--format", *args)
    assert (done.code, done.out) == (2, "")
    assert words in done.complaint
    assert (tmp_path / "pipe").is_fifo()
    assert flctl("runs", "plot", run.name, "--out", "pipe").code == 2


def test_a_run_without_a_round(train, flctl):
    """It has no figures, and a model: the one that it began with."""
    run = train("--keep-rounds", 0)
    begun = run.journal_path.read_text().splitlines(keepends=True)[0]
    run.journal_path.write_text(begun)
    for args in (("export", run.name, "--format", "csv"), ("plot", run.name)):
        done = flctl("runs", *args)
        assert (done.code, done.complaint) == (1, f"run {run.name} has no committed round yet")
    done = flctl("runs", "export", run.name, "--format", "pt", "--which", "best")
    assert "has no best round" in done.complaint and done.code == 2
    assert flctl("runs", "export", run.name, "--format", "pt").code == 0


@pytest.mark.parametrize("missing", ["tensorboard", "onnxscript"])
def test_an_extra_that_is_missing_is_named(run, flctl, monkeypatch, missing, beats, tmp_path):
    """Before anything else is done."""
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == missing else find(name, *a)
    )
    format_ = missing.removesuffix("script")
    done = flctl("runs", "export", run.name, "--format", format_)
    assert (done.code, done.complaint.split(": ")[1]) == (2, f"pip install 'flctl[{format_}]'")
    if missing == "tensorboard":
        done = flctl(*RUN, "--virtual", 2, "--data", beats(), "--tensorboard", tmp_path / "tb")
        assert (done.code, done.out) == (2, "")


def test_parity_20_a_run_is_drawn(run, flctl, tmp_path):
    """As a PNG; a larger one with each agent."""
    sizes = []
    for more in ((), ("--per-agent",)):
        done = flctl("runs", "plot", run.name, *more)
        assert (done.code, done.err) == (0, "")
        assert done.out == f"the picture of run {run.name} is in {run.name}.png\n"
        png = (tmp_path / f"{run.name}.png").read_bytes()
        assert png.startswith(b"\x89PNG")
        sizes.append(len(png))
    assert sizes[0] < sizes[1]


def test_the_words_above_a_picture_end_within_it(tmp_path):
    """A long name makes them smaller; at the edge there is nothing."""
    from matplotlib.image import imread

    for words, size in (("a run of few words", 12.6), ("a long name " * 30, 12.6), ("x" * 99, 6.4)):
        path = tmp_path / "picture.png"
        with picture(path, "--out", words, words, columns=1, size=(size, 4.0), layout={}):
            pass
        head = imread(path)[: round(0.8 * 140)]
        assert (head[:, :, 0] < 0.9).any() and not (head[:, -8:, 0] < 0.9).any()


def test_onnx_needs_data_only_where_the_task_cannot_say_its_shape(flctl, tmp_path, monkeypatch):
    """Those of the run may be gone, as they are on the coordinator of a fleet."""
    import onnxruntime

    monkeypatch.chdir(tmp_path)
    for task, args, shape in (
        ("sensors", "learn='class',target='state',window=32", [5, 32]),
        ("images", "size=32", [3, 32, 32]),
    ):
        assert flctl("data", "sample", task, "data").code == 0
        done = flctl("train", "--task", task, "--virtual", 2, "--rounds", 1, "--data", "data",
                     "--task-args", args)  # fmt: skip
        assert done.code == 0, done.err
        shutil.rmtree("data")
        done = flctl("runs", "export", task, "--format", "onnx", "--out", "model.onnx")
        assert (done.code, done.err) == (0, "")
        (given,) = onnxruntime.InferenceSession("model.onnx").get_inputs()
        assert given.shape[1:] == shape


@pytest.mark.parametrize("agents", [("--virtual", 2), ("--local", 2)])
def test_parity_20_tensorboard_events_of_a_run(train, flctl, tmp_path, agents):
    """Each round is a point of every figure, written as it goes on; an export has the same."""
    run = train("--tensorboard", "tb", agents=agents)
    live = steps(tmp_path / "tb" / run.name)
    assert {"later/accuracy", "training/loss", "round/seconds", "agent_loss/pi-02"} <= set(live)
    assert all(found == [1, 2, 3] for found in live.values())
    assert flctl("runs", "export", run.name, "--format", "tensorboard").code == 0
    assert steps(tmp_path / "tensorboard" / run.name) == live


@pytest.mark.parametrize("before", [("--tensorboard", "tb"), ()])
def test_a_resumed_run_goes_on_in_the_same_folder(train, flctl, tmp_path, before):
    """No point is there twice; and none is missing of rounds that nobody followed."""
    run = train(*before)
    lines = run.journal_path.read_text().splitlines(keepends=True)
    second = next(n for n, line in enumerate(lines) if json.loads(line).get("round") == 3)
    run.journal_path.write_text("".join(lines[:second]))  # killed when round 3 was to begin
    for file in (tmp_path / "tb").glob("*/*"):
        os.truncate(file, file.stat().st_size - 9)
    done = flctl("train", "--resume", run.name, "--tensorboard", "tb")
    assert (done.code, done.err) == (0, "")
    assert all(found == [1, 2, 3] for found in steps(tmp_path / "tb" / run.name).values())


@pytest.fixture
def no_room():
    """No file of more than 2000 bytes can be written, as on a disk that is full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def begin():
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))

    yield begin
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, old)


@pytest.mark.parametrize("format_", ["pt", "safetensors", "tensorboard", "picture"])
def test_no_room_for_it(train, flctl, tmp_path, no_room, format_):
    """One line that says so, and nothing is left."""
    run = train("--rounds", 30) if format_ == "tensorboard" else train()
    command = ("plot", run.name) if format_ == "picture" else ("export", run.name, "--format")
    more = () if format_ == "picture" else (format_,)
    (tmp_path / "out").mkdir()
    out = tmp_path / "out" / ("x.png" if format_ == "picture" else "x")
    no_room()
    done = flctl("runs", *command, *more, "--out", out)
    assert done.code == 1
    assert "File too large" in done.complaint and str(out) in done.complaint
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_a_run_goes_on_without_its_events(flctl, beats, tmp_path, monkeypatch):
    """When they cannot be written any more that is told once, and counts as a failure."""
    from tensorboard.summary.writer.record_writer import RecordWriter

    class Full(RecordWriter):
        def write(self, data):
            super().write(data)
            with Path(__file__).open() as read_only:  # it can neither be flushed nor closed well
                os.dup2(read_only.fileno(), self._writer.fileno())

    monkeypatch.setattr("tensorboard.summary.writer.record_writer.RecordWriter", Full)
    done = flctl(*RUN, "--virtual", 2, "--data", beats(), "--tensorboard", tmp_path / "tb")
    assert done.code == 1
    assert "cannot write TensorBoard events" in done.complaint
    assert done.complaint.endswith("; the run continues without it")
    assert done.out.count("round ") == 3 and "model in" in done.out


def test_a_file_may_say_where_the_events_go(flctl, beats, tmp_path, monkeypatch):
    """As it may of the model."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "my.toml"
    text = f'task = "ecg"\nvirtual = 2\nrounds = 1\nepochs = 1\ndata = "{beats()}"\n'
    file.write_text(f'{text}tensorboard = "tb"\n')
    assert flctl("train", file).code == 0
    (folder,) = (tmp_path / "tb").iterdir()
    assert folder.name.startswith("ecg-")
    file.write_text(f"{text}tensorboard = 3\n")
    assert flctl("train", file).complaint.endswith(
        "my.toml: tensorboard: write the path of a folder, in quotes"
    )
