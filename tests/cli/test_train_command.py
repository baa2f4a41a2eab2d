"""A small run of virtual agents, and what the other commands make of it."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from flctl.cli.flags import written
from flctl.coordinator.store.folder import RunFolder
from flctl.core.events import RoundCommitted, RunFinished
from flctl.fleet.virtual import VirtualRun
from flctl.terminal.given import collected
from flctl.terminal.watching import LineWatcher
from flctl.wire.parameters import ParameterFile

QUICK = ("--task", "ecg", "--virtual", 2, "--epochs", 1, "--batch-size", 32)


@pytest.fixture
def run(flctl, beats, tmp_path):
    """The outcome of a run of two rounds with --json; its model is tmp_path/model.safetensors."""
    done = flctl("train", *QUICK, "--rounds", 2, "--data", beats(), "--json", "--save-model",
                 tmp_path / "model.safetensors")  # fmt: skip
    assert (done.code, done.err) == (0, "")
    return [json.loads(line) for line in done.out.splitlines()]


def test_json_lines(run, tmp_path):
    """A round is a line with figures and participants; the last says where the model is."""
    rounds = [event for event in run if event["event"] == "round"]
    assert [event["round"] for event in rounds] == [1, 2]
    for event in rounds:
        assert event["participants"] == ["pi-01", "pi-02"]
        assert event["seconds"] > 0
        assert {"values", "source"} <= set(event["metrics"])
        assert event["updates"]["pi-01"]["examples"] == 32
    last = run[-1]
    assert list(last) == ["event", "run", "rounds", "checkpoint", "metrics"]
    assert last["event"] == "finished"
    assert (last["rounds"], last["checkpoint"]) == (2, str(tmp_path / "model.safetensors"))
    assert last["metrics"]["values"]["accuracy"] == rounds[-1]["metrics"]["values"]["accuracy"]
    assert last["metrics"]["source"] == "coordinator"
    assert not any(event["event"] == "progress" for event in run)


def test_a_finished_run_is_saved_though_it_cannot_be_personalised(
    flctl, beats, tmp_path, monkeypatch
):
    """Its data are gone by then. The exit code says that something is missing."""
    data, saved, show = beats(), tmp_path / "model.safetensors", LineWatcher.show

    def moved(watcher, told):
        if isinstance(told.event, RunFinished):
            data.unlink()
        show(watcher, told)

    monkeypatch.setattr(LineWatcher, "show", moved)
    done = flctl("train", *QUICK, "--rounds", 1, "--data", data, "--personalise",
                 "--save-model", saved)  # fmt: skip
    assert done.code == 1
    assert f"model in {saved}" in done.out
    assert saved.exists()
    assert "is finished; its model was not personalised: " in done.complaint
    assert str(data) in done.complaint
    assert "ask again with: flctl personalise ecg-" in done.complaint


def test_the_saved_model_is_the_last_one(run, tmp_path):
    """--save-model writes the tensors of the run's last checkpoint, and what the validation part
    says of them, which a checkpoint cannot hold: it is there before it is measured."""
    saved = tmp_path / "model.safetensors"
    last = RunFolder.find(tmp_path / "state", run[-1]["run"]).path / "last.safetensors"
    with saved.open("rb") as copied, last.open("rb") as kept:
        ours, theirs = ParameterFile(copied.fileno(), "saved"), ParameterFile(kept.fileno(), "kept")
        assert ours.specs == theirs.specs
        assert all((ours.read(s) == theirs.read(s)).all() for s in ours.specs)
        assert ours.metadata.pop("correction").keys() == {"temperature", "prior"}
        assert ours.metadata == theirs.metadata


def test_a_model_is_corrected_wherever_it_lies(run, tmp_path, flctl, beats):
    """In the folder of its run, copied at the end, and exported, for `evaluate` and `predict`."""
    name, exported = run[-1]["run"], tmp_path / "exported.safetensors"
    last = RunFolder.find(tmp_path / "state", name).path / "last.safetensors"
    out = ("--format", "safetensors", "--which", "last", "--out", exported)
    assert flctl("runs", "export", name, *out).code == 0
    for command, data in (("evaluate", ("--data", beats())), ("predict", (beats(),))):
        found = []
        for model in (last, tmp_path / "model.safetensors", exported):
            said = json.loads(flctl(command, model, *data, "--json").out)
            said.pop("by_agent", None)  # of a model in its run's folder alone
            found.append(said | {"checkpoint": ""})
        assert found[0] == found[1] == found[2]
    assert found[0]["correction"]["temperature"] > 0
    plain = json.loads(flctl("predict", exported, beats(), "--uncorrected", "--json").out)
    assert "correction" not in plain
    assert plain["predictions"] != found[0]["predictions"]
    rows = flctl("evaluate", exported, "--data", beats(), "--split", "later").out
    assert "later, corrected" in rows


def test_runs(run, flctl):
    """The run is listed, shown and replayed, for people and as JSON."""
    name = run[-1]["run"]
    (listed,) = json.loads(flctl("runs", "list", "--json").out)
    expected = {"run": name, "state": "finished", "round": 2, "rounds": 2}
    assert {key: listed[key] for key in expected} == expected
    assert name in flctl("runs", "list").out
    shown = json.loads(flctl("runs", "show", name, "--json").out)
    assert shown["settings"]["batch_size"] == 32
    assert [e["round"] for e in shown["events"] if e["event"] == "round"] == [1, 2]
    out = flctl("runs", "show", name[:-2]).out
    assert "pi-02" in out
    journal, head = (line for line in out.splitlines() if line.startswith(("journal", "head")))
    assert journal.endswith("chained lines") and len(journal) < 60 and len(head) == 12 + 64
    replayed = flctl("runs", "replay", name)
    assert replayed.code == 0
    assert "2 rounds computed again, the same" in replayed.out
    assert json.loads(flctl("runs", "replay", name, "--json").out)["same"] is True


@pytest.mark.parametrize(("compression", "fewer"), [("int8", 3.9), ("topk", 20)])
def test_a_compressed_run_says_what_it_has_saved(flctl, beats, tmp_path, compression, fewer):
    """For people by round and agent; as JSON the bytes, the model's size and the error."""
    done = flctl(
        "train", "--task", "ecg", "--virtual", 2, "--rounds", 1, "--epochs", 1, "--data", beats(),
        "--partition", "iid", "--compression", compression, "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    events = [json.loads(line) for line in done.out.splitlines()]
    (committed,) = [event for event in events if event["event"] == "round"]
    for part in committed["updates"].values():
        assert committed["size"] / part["bytes_up"] >= fewer
        assert 0 < part["compression_error"] < 1
    shown = flctl("runs", "show", events[0]["run"]).out
    assert f"compression {compression}" in shown
    header, figures = (line.split() for line in shown.split("\n\n")[1].splitlines())
    assert "up fewer error" in " ".join(header)
    times = committed["size"] / part["bytes_up"]
    assert f"{times:.1f}" in figures and "×" in figures


def test_evaluate(run, flctl, tmp_path, beats):
    """A checkpoint knows its task; its figures on the test part are those of the last round."""
    model = tmp_path / "model.safetensors"
    found = json.loads(flctl("evaluate", model, "--data", beats(), "--json").out)
    assert found["values"]["accuracy"] == run[-1]["metrics"]["values"]["accuracy"]
    assert {"values", "examples", "part", "counts"} <= set(found)
    everything = json.loads(
        flctl("evaluate", model, "--data", beats(), "--split", "all", "--json").out
    )
    assert (everything["examples"], found["examples"]) == (96, 24)
    assert "accuracy" in flctl("evaluate", model, "--task", "ecg", "--data", beats()).out
    wrong = flctl("evaluate", model, "--task", "mnist", "--split", "train")
    assert wrong.code == 1


def test_what_a_run_was_measured_on_comes_first(flctl, tmp_path, beats):
    """Its checkpoint gives the figures of its last round; without that file, those on its data."""
    other = np.random.default_rng(2).integers(-300, 300, (96, 187)).astype(np.int16)
    tests, data = beats("own-tests.npz", X=other), beats()
    given = ("--virtual", 2, "--rounds", 1, "--epochs", 1, "--data", data, "--test-data", tests)
    assert flctl("train", "--task", "ecg", *given).code == 0
    (run,) = (tmp_path / "state" / "runs").iterdir()
    last = RunFolder(run).history().rounds[-1].metrics
    found = json.loads(flctl("evaluate", run / "last.safetensors", "--json").out)
    assert (found["data"], found["values"]) == (str(tests), last.values)
    assert found["by_agent"]["agents"].keys() == {"pi-01", "pi-02"}
    assert f"\nmeasured on {tests}, " in flctl("evaluate", run / "last.safetensors").out
    for split in ("train", "validation"):
        of = flctl("evaluate", run / "last.safetensors", "--split", split, "--json").out
        assert json.loads(of)["data"] == str(data)
    wrong = flctl("evaluate", run / "last.safetensors", "--split", "unseen")
    said = f"--split unseen: not in {tests}, which have auto, train, validation, all, later"
    assert (wrong.code, wrong.complaint) == (2, f"{said}; name other data with --data")
    tests.unlink()
    assert f"\nmeasured on {data}, " in flctl("evaluate", run / "last.safetensors").out


def test_a_checkpoint_of_another_model(run, flctl, tmp_path, mnist_dir):
    """It is named as such, with the tensor that does not fit."""
    done = flctl("evaluate", tmp_path / "model.safetensors", "--task", "mnist", "--data", mnist_dir)
    assert (done.code, done.out) == (1, "")
    assert "another model" in done.complaint


def test_nothing_to_resume(run, flctl):
    """A finished run says that it is finished."""
    done = flctl("train", "--resume", run[-1]["run"])
    assert done.code == 2
    assert "finished" in done.complaint
    (listed,) = json.loads(flctl("runs", "list", "--json").out)
    assert listed["state"] == "finished"


def test_plain_lines_when_piped(flctl, beats):
    """Without a terminal a run is one line a round, without colour, and the last says what next."""
    done = flctl("train", *QUICK, "--rounds", 2, "--data", beats())
    lines = done.out.splitlines()
    assert [line[:9] for line in lines[:2]] == ["round 1/2", "round 2/2"]
    assert lines[2].startswith("measured by the coordinator")
    assert lines[-1].startswith("model in ")
    assert "flctl evaluate" in lines[-1]
    best = [line for line in lines if line.startswith("best: round 1, ")]
    assert len(lines) == 4 + len(best)
    assert "\x1b" not in done.out


def test_a_run_that_is_resumed_ends_with_the_same_hint(flctl, beats, tmp_path):
    """Its settings say which data it was measured on."""
    data = str(beats())
    given = {"task": "ecg", "virtual": 2, "rounds": 2, "epochs": 1, "batch_size": 32, "data": data}

    def stop(told):
        if isinstance(told.event, RoundCommitted):
            raise KeyboardInterrupt

    made = VirtualRun.start(tmp_path / "state", given, "the test", stop)
    with pytest.raises(KeyboardInterrupt):
        made.run()
    done = flctl("train", "--resume", made.folder.name)
    assert done.code == 0, done.err
    assert done.out.splitlines()[-1].endswith(f" --data {data}")
    shown = flctl("runs", "show", made.folder.name).out
    assert str(made.folder.path / "best.safetensors") in shown


def test_flags_win_over_the_file(flctl, beats, tmp_path):
    """run.toml holds the settings; a flag replaces one of them."""
    file = tmp_path / "run.toml"
    file.write_text(
        f'task = "ecg"\nvirtual = 3\nrounds = 9\nepochs = 1\ndata = "{beats()}"\nwait = 7\n'
    )
    done = flctl("train", file, "--rounds", 1, "--virtual", 2)
    assert done.out.startswith("round 1/1")
    (folder,) = (tmp_path / "state" / "runs").iterdir()
    settings = RunFolder(folder).settings()
    assert (settings.rounds, settings.virtual, settings.wait_s) == (1, 2, 7.0)


def test_a_file_is_written_as_the_flags_are(flctl, beats, tmp_path, monkeypatch):
    """Times with units, lists with commas, a relative path, where the model goes."""
    monkeypatch.chdir(beats().parent)
    (tmp_path / "elsewhere").mkdir()
    file = tmp_path / "elsewhere" / "my.toml"
    file.write_text(
        'task = "ecg"\nvirtual = 2\nrounds = 1\nepochs = 1\ndeadline = "10m"\nwait_s = "1m"\n'
        f'agents = "pi-01, pi-02"\noptimizer-args = "momentum=0.5"\ndata = "{beats().name}"\n'
        f'save-model = "{tmp_path}/of-the-file"\n'
    )
    assert flctl("train", file).code == 0
    assert (tmp_path / "of-the-file").exists()
    (folder,) = (tmp_path / "state" / "runs").iterdir()
    settings = RunFolder(folder).settings()
    assert (settings.deadline_s, settings.wait_s) == (600.0, 60.0)
    assert settings.agents == ("pi-01", "pi-02")
    assert settings.optimizer_args == {"momentum": 0.5}
    assert settings.data == str(beats())
    assert flctl("train", file, "--save-model", tmp_path / "of-the-flag").code == 0
    assert (tmp_path / "of-the-flag").exists()


def test_a_flag_that_names_the_agents_wins_over_the_file(tmp_path):
    """Over all that the file says of them, and not only over the key of the same name."""
    file = tmp_path / "my.toml"
    for line in ("virtual = 2", 'agents = "pi-07"', 'agents = "a"\ndataset = "icu"'):
        file.write_text(f'task = "ecg"\n{line}\n')
        given, _ = collected(file, {"local": 4}, written)
        assert given == {"task": "ecg", "local": 4}


def test_a_flag_for_another_strategy_leaves_the_arguments_of_the_files_one(tmp_path):
    """They are not its own; of the same one they stay."""
    file = tmp_path / "my.toml"
    file.write_text(
        'task = "ecg"\nstrategy = "trimmed-mean"\noptimizer = "SGD"\n'
        "[strategy_args]\ntrim = 0.3\n[optimizer_args]\nmomentum = 0.5\n"
    )
    other, _ = collected(file, {"strategy": "median", "optimizer": "Adam"}, written)
    same, _ = collected(file, {"strategy": "trimmed-mean"}, written)
    assert not other.keys() & {"strategy_args", "optimizer_args"}
    assert (same["strategy_args"], same["optimizer_args"]) == ({"trim": 0.3}, {"momentum": 0.5})


def test_the_settings_of_a_run_begin_another_one(run, flctl, tmp_path):
    """`flctl train RUN/run.toml`: the same settings, so the same model."""
    file = RunFolder.find(tmp_path / "state", run[-1]["run"]).path / "run.toml"
    assert flctl("train", file, "--save-model", tmp_path / "again").code == 0
    assert (tmp_path / "again").read_bytes() == (tmp_path / "model.safetensors").read_bytes()


def test_settings_that_were_changed_do_not_go_on(run, flctl, tmp_path):
    """A run that is stopped, edited and resumed is named; an old journal, which does not know
    the settings it began with, is believed."""
    folder = RunFolder.find(tmp_path / "state", run[-1]["run"])
    *begun, _ = folder.journal_path.read_text().splitlines(keepends=True)
    folder.journal_path.write_text("".join(begun))
    settings = folder.path / "run.toml"
    settings.write_text(settings.read_text().replace("rounds = 2", "rounds = 3"))
    for command in (("train", "--resume", folder.name), ("runs", "replay", folder.name)):
        done = flctl(*command)
        assert (done.code, done.out) == (1, "")
        assert f"{settings}: has changed" in done.complaint
        assert f"flctl train {settings}" in done.complaint
    started = json.loads(begun[0])
    del started["settings"]
    folder.journal_path.write_text(json.dumps(started) + "\n" + "".join(begun[1:]))
    assert flctl("train", "--resume", folder.name).code == 0
    assert folder.history().round == 3


@pytest.mark.parametrize("text", [None, "x=\n", "rounds = 'many'\n"])
def test_a_run_whose_settings_are_damaged(run, flctl, tmp_path, text):
    """Its damage is no wrong usage, whether it is that of the settings or of the journal."""
    folder = RunFolder.find(tmp_path / "state", run[-1]["run"])
    settings = folder.path / "run.toml"
    settings.unlink() if text is None else settings.write_text(text)
    done = flctl("runs", "replay", folder.name)
    assert (done.code, done.out) == (1, "") and str(settings) in done.complaint


def test_a_reader_that_goes_away(beats, tmp_path):
    """`flctl runs show … | head -1` is quiet."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "flctl", "keys", "--help"],
        stdout=write,
        stderr=subprocess.PIPE,
        env={**os.environ, "FLCTL_STATE": str(tmp_path / "state")},
        check=False,
    )
    os.close(write)
    assert done.stderr == b""
