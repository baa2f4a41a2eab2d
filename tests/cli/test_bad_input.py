"""Bad input: one clear line on stderr, exit code 1 or 2, nothing written."""

import io
import socket

import numpy as np
import pytest

from flctl.files import Lock

CASES = {
    "unknown task": (("--task", "ecgg", "--virtual", 2), 2, "did you mean 'ecg'?"),
    "unknown task, local": (("--task", "ecgg", "--local", 2), 2, "did you mean 'ecg'?"),
    "no task": (("--virtual", 2), 2, "--task ecg"),
    "local too many": (("--task", "ecg", "--local", 100000), 2, "this machine has"),
    "local 0": (("--task", "ecg", "--local", 0), 2, "local: must be a whole number >= 1"),
    "negative lr": (("--task", "ecg", "--local", 2, "--lr", -1), 2, "lr: must be"),
    "lr is a word": (("--task", "ecg", "--lr", "big"), 2, "--lr"),
    "unknown flag": (("--task", "ecg", "--epoch", 2), 2, "--epoch"),
    "unknown partition": (("--task", "ecg", "--virtual", 2, "--partition", "x"), 2, "partition"),
    "local and virtual": (("--task", "ecg", "--virtual", 2, "--local", 2), 2, "exclude"),
    "quorum too large": (("--task", "ecg", "--local", 2, "--quorum", 3), 2, "a fleet of 2"),
    "quorum of agents": (("--task", "ecg", "--agents", "a,b", "--quorum", 3), 2, "a fleet of 2"),
    "no time": (("--task", "ecg", "--virtual", 2, "--deadline", "soon"), 2, "--deadline"),
    "no optimiser": (("--task", "ecg", "--virtual", 2, "--optimizer", "SDG"), 2, "SDG"),
    "its arguments": (("--task", "ecg", "--virtual", 2, "--optimizer-args", "x"), 2, "NAME=VALUE"),
    "no such tensors": (
        ("--task", "ecg", "--virtual", 2, "--personalise", "--personal-tensors", "zzz*"),
        2,
        "personal_tensors: 'zzz*' matches no parameter of the model; there are",
    ),
    "too many agents": (("--task", "ecg", "--virtual", 999), 1, "only 16 records"),
    "no data": (("--task", "ecg", "--virtual", 2, "--data", "/nonexistent"), 2, "/nonexistent"),
    "nowhere to save": (("--task", "ecg", "--virtual", 2, "--save-model", "/no/x"), 2, "/no"),
    "save to a folder": (("--task", "ecg", "--virtual", 2, "--save-model", "/"), 2, "is a folder"),
    "neither": (("--task", "ecg"), 1, "--local N or --virtual N"),
    "unknown run": (("--resume", "ecg-9"), 2, "no run 'ecg-9' in"),
    "no name of a run": (("--resume", ""), 2, "name a run"),
    "agents of a fleet": (("--task", "ecg", "--local", 2, "--agents", "a,b"), 2, "agents cannot"),
    "data set": (("--task", "ecg", "--virtual", 2, "--dataset", "icu"), 2, "dataset is for agents"),
    "deadline 0": (("--task", "ecg", "--virtual", 2, "--deadline", 0), 2, "line: deadline: must"),
    "optimiser in a step": (
        ("--task", "ecg", "--virtual", 2, "--optimizer", "SparseAdam"),
        2,
        "dense gradients",
    ),
    "no class of a task": (("--task", "os:getcwd", "--virtual", 2), 2, "not a subclass"),
    "no module of a task": (("--task", "no.mod:Cls", "--virtual", 2), 2, "no.mod"),
    "empty data": (("--task", "ecg", "--virtual", 2, "--data", ""), 2, "--data '': name"),
    "empty test data": (("--task", "ecg", "--virtual", 2, "--test-data", ""), 2, "--test-data ''"),
    "empty state": (("--task", "ecg", "--virtual", 2, "--state", ""), 2, "'--state'"),
    "empty target": (("--task", "ecg", "--virtual", 2, "--save-model", ""), 2, "'--save-model'"),
    "a share of nothing": (
        ("--task", "ecg", "--virtual", 2, "--topk-share", 0.1),
        2,
        "requires --compression topk",
    ),
    "resume with flags": (("--resume", "ecg-9", "--rounds", 3), 2, "--resume"),
}


@pytest.mark.parametrize("case", CASES)
def test_train(flctl, tmp_path, case):
    """`flctl train` refuses it before anything is written."""
    args, code, words = CASES[case]
    done = flctl("train", *args)
    assert (done.code, done.out) == (code, "")
    assert words in done.complaint
    assert not (tmp_path / "state").exists()


def test_nothing_is_removed_where_nobody_can_be_asked(flctl, tmp_path, monkeypatch):
    """In a script, or with its input from a file."""
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    done = flctl("remove", "-i", tmp_path / "inventory.yml")
    assert (done.code, done.out) == (2, "")
    assert done.complaint.endswith("pass --yes to confirm")


@pytest.mark.parametrize(
    ("how", "fault"),
    [
        *(("--virtual", fault) for fault in ("empty", "label", "nan", "not npz", "test data")),
        *(("--local", fault) for fault in ("nan", "test data")),
    ],
)
def test_bad_data(flctl, tmp_path, beats, how, fault):
    """Data that are empty, mislabelled, not finite or no data are named; no run is left."""
    whole = np.load(beats())
    args, words = ["--data", "?"], "no examples"
    match fault:
        case "empty":
            path = beats("empty.npz", **{name: array[:0] for name, array in whole.items()})
        case "label":
            path = beats("label.npz", y=np.where(whole["y"] == 2, 9, whole["y"]))
            words = "has label 9, not in 0 to 4"
        case "not npz":
            path = tmp_path / "junk.npz"
            path.write_bytes(b"junk")
            words = "junk.npz"
        case _:
            path = beats("nan.npz", X=np.where(whole["X"] > 290, np.nan, whole["X"]))
            words = "NaN"
    args = ["--data", beats(), "--test-data", path] if fault == "test data" else ["--data", path]
    done = flctl("train", "--task", "ecg", how, 2, *args)
    assert (done.code, done.out) == (1, "")
    assert words in done.complaint
    assert str(path) in done.complaint
    assert not (tmp_path / "state").exists()


def test_data_without_the_part_for_testing(flctl, tmp_path, mnist_dir):
    """What the evaluation will need is missed before anybody trains."""
    folder = tmp_path / "mnist"
    folder.mkdir()
    for file in mnist_dir.glob("train-*"):
        (folder / file.name).symlink_to(file)
    done = flctl("train", "--task", "mnist", "--virtual", 2, "--data", folder)
    assert (done.code, done.out) == (1, "")
    assert "t10k-images-idx3-ubyte" in done.complaint
    assert not (tmp_path / "state").exists()


def test_misspelt_key_of_a_file(flctl, tmp_path):
    """A misspelt key in run.toml is named with its line and the nearest right one."""
    file = tmp_path / "run.toml"
    file.write_text('task = "ecg"\nvirtual = 2\nbatchsize = 3\n')
    done = flctl("train", file)
    assert done.code == 2
    assert done.complaint == f"{file}, line 3: unknown key 'batchsize'; did you mean 'batch_size'?"


def test_bad_value_of_a_file(flctl, tmp_path):
    """A bad value is told of where it stands, in the file or on the command line."""
    file = tmp_path / "run.toml"
    file.write_text('task = "ecg"\nvirtual = 2\nrounds = 0\n')
    assert flctl("train", file).complaint.startswith(f"{file}: rounds: ")
    file.write_text('task = "ecg"\nvirtual = 2\n')
    assert flctl("train", file, "--rounds", 0).complaint.startswith("command line: rounds: ")
    assert flctl("train", tmp_path / "no.toml").complaint.startswith(str(tmp_path / "no.toml"))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("deadline = 0", "deadline: must be a number > 0"),
        ('deadline = "soon"', "deadline 'soon': not a time"),
        ('optimizer-args = "momentum"', "optimizer-args 'momentum': write NAME=VALUE"),
        ('agents = "a,,b"', "agents 'a,,b': write names"),
        ('data = ""', "data '': name a file or folder"),
        ('save-model = ""', "save-model '': name a file or folder"),
        ("save_model = 3", "save-model: write the path of a file"),
        ("schema = 7", "schema 7, this version reads 1"),
    ],
)
def test_bad_text_of_a_file(flctl, tmp_path, line, words):
    """A file is read as the flags are, and its faults are told in the same words."""
    file = tmp_path / "run.toml"
    file.write_text(f'task = "ecg"\nvirtual = 2\n{line}\n')
    done = flctl("train", file)
    assert (done.code, done.out) == (2, "")
    assert done.complaint.startswith(f"{file}: {words}")


def test_runs_of_a_folder_that_holds_none(flctl, tmp_path):
    """Nothing yet, no folder at all, a file, and what cannot be read: each says which it is."""
    (tmp_path / "state").mkdir()
    empty = flctl("runs", "list")
    assert (empty.code, empty.err) == (0, "")
    assert "no such folder" not in empty.out
    absent = flctl("runs", "list", "--state", tmp_path / "absent")
    assert absent.code == 0
    assert "(there is no such folder)" in absent.out
    assert f"--state {tmp_path / 'absent'}" in absent.out
    (tmp_path / "file").write_text("")
    file = flctl("runs", "list", "--state", tmp_path / "file")
    assert (file.code, file.out) == (1, "")
    assert "file/runs: cannot list the runs: Not a directory" in file.complaint
    (tmp_path / "state/runs/ecg-1").mkdir(parents=True)
    damaged = flctl("runs", "list")
    assert (damaged.code, damaged.out) == (1, "")
    assert "ecg-1: not a run, or a damaged one" in damaged.err
    assert "contains no readable run" in damaged.err


def test_empty_paths_of_evaluate(flctl):
    """They do not mean the current folder."""
    for args in (("",), ("x.safetensors", "--data", "")):
        done = flctl("evaluate", *args)
        assert (done.code, done.out) == (2, "")
        assert "it is empty" in done.complaint


@pytest.mark.parametrize("name", ["loop", "n" * 300])
def test_a_path_at_which_nothing_can_be(flctl, tmp_path, monkeypatch, name):
    """A RuntimeError, an OSError, and for --state 20 s of waiting for 'process ?'."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    why = "too many levels of symbolic links" if name == "loop" else "file name too long"
    for args in (
        ("evaluate", name),
        ("predict", "x.safetensors", name),
        ("runs", "list", "--state", name),
        ("runs", "export", "x", "--format", "csv", "--out", name),
        ("data", "describe", name),
    ):
        done = flctl(*args)
        assert (done.code, done.complaint) == (2, f"{name[:80]}: {why}"), args


def test_not_a_checkpoint(flctl, tmp_path):
    """A file that is no checkpoint, and none at all."""
    junk = tmp_path / "junk.safetensors"
    junk.write_bytes(b"\x00" * 100)
    for path in (junk, tmp_path / "none.safetensors", tmp_path):
        done = flctl("evaluate", path, "--task", "ecg")
        assert (done.code, done.out) == (1, "")
        assert str(path) in done.complaint


def test_state_folder_that_is_a_file(flctl, tmp_path):
    """A state folder that cannot be made is named."""
    (tmp_path / "file").write_text("")
    done = flctl("train", "--task", "ecg", "--virtual", 2, "--rounds", 1, "--state",
                 tmp_path / "file" / "state")  # fmt: skip
    assert (done.code, done.out) == (1, "")
    assert str(tmp_path / "file") in done.complaint


def test_coordinator_that_cannot_start(flctl, tmp_path):
    """A port in use; another coordinator on the same folder; an address that is none."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = flctl("coordinator", "--bind", f"127.0.0.1:{port}")
        assert done.code == 1
        assert f"{port}" in done.complaint
    lock = Lock(tmp_path / "state" / "coordinator.lock", "busy")
    try:
        done = flctl("coordinator", "--bind", "127.0.0.1:0")
        assert done.code == 1
        assert "already" in done.complaint
    finally:
        lock.release()
    assert flctl("coordinator", "--bind", "nowhere").code in (1, 2)
    for heartbeat in ("0.5s", "11m", "often"):
        done = flctl("coordinator", "--heartbeat", heartbeat)
        assert done.code == 2 and "--heartbeat" in done.complaint


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((), "--coordinator"),
        (("--coordinator", "h:1"), "server key"),
        (("--coordinator", "h:1", "--server-key", "x"), "--server-key"),
        (("--coordinator", "h:1", "--server-key-file", "/none"), "/none"),
        (("--coordinator", "h:1", "--server-key", "0" * 40, "--data", "/none"), "/none"),
        (("--coordinator", "h:1", "--server-key", "0" * 40, "--shard", "3/2"), "--shard"),
        (("--coordinator", "h:1", "--server-key", "0" * 40, "--role", "boss"), "--role"),
        (("--coordinator", "h:1", "--server-key", "0" * 40, "--name", "Pi 1"), "--name"),
        (
            ("--coordinator", "h:1", "--server-key", "0" * 40, "--name", "../x"),
            "--name '../x' cannot be a name: up to 63 of a-z 0-9 . _ - , a-z or 0-9 first",
        ),
        (
            ("--coordinator", "h:1", "--server-key", "0" * 40, "--data", "../y=d/g0.npz"),
            "--data ../y=d/g0.npz: no such file or folder, and '../y' cannot name a data",
        ),
        (
            ("--coordinator", "h:1", "--server-key", "0" * 40, "--data", "x=/none"),
            "--data x=/none: no such file or folder",
        ),
        (
            ("--coordinator", "h:1", "--server-key", "0" * 40, "--data", "/tmp/\udce9.npz"),
            "its name is not UTF-8: rename it",
        ),
        (("--coordinator", "h:1", "--server-key", "0" * 40, "--threads", 0), "--threads"),
        (("--coordinator", "h:1", "--server-key", "0" * 40, "--threads", 10**6), "--threads"),
        (("--coordinator", "h:1", "--server-key", "0" * 40, "--join-token-file", "/no"), "/no"),
    ],
)
def test_agent(flctl, tmp_path, args, words):
    """An agent that is told wrong things says so instead of dialling."""
    done = flctl("agent", *args)
    assert done.code in (1, 2)
    assert words in done.complaint
    assert not (tmp_path / "state").exists()


def test_nobody_to_ask(flctl):
    """Commands that need a coordinator say how to start one."""
    for args in (("status",), ("discover",)):
        done = flctl(*args)
        assert done.code == 1
        assert "flctl coordinator" in done.complaint


def test_ctrl_c_in_the_midst_of_an_import(flctl, monkeypatch):
    """Python makes a RuntimeError of what is raised while a class is made."""
    from flctl.coordinator.store import runs

    class Interrupted:
        def __set_name__(self, *_):
            raise KeyboardInterrupt

    monkeypatch.setattr(runs, "all_runs", lambda *_: type("Made", (), {"field": Interrupted()}))
    assert flctl("runs", "list") == (130, "", "")


def test_a_fault_of_our_own_is_one_line_too(flctl, monkeypatch, capsys):
    """An exception that nobody foresaw is named with its type; the traceback is to be had."""
    from flctl.coordinator.store import runs

    def broken(*_):
        raise ZeroDivisionError("of one's own")

    monkeypatch.setattr(runs, "all_runs", broken)
    done = flctl("runs", "list")
    assert done.code == 1
    assert done.complaint == (
        "ZeroDivisionError: of one's own (run again with FLCTL_DETAILS=1 before it, for details)"
    )
    monkeypatch.setenv("FLCTL_DETAILS", "1")
    assert "Traceback" in flctl("runs", "list").err
    monkeypatch.delenv("FLCTL_DETAILS")


@pytest.mark.parametrize(
    "command",
    [
        ("connect", "h:1", "--server-key", "KEY", "--key", "/no/my.key"),
        ("agent", "--coordinator", "h:1", "--server-key", "KEY", "--data", "/no/data"),
        ("keys", "add", "pi-01", "KEY", "--role", "none"),
    ],
)
def test_a_key_may_begin_with_a_hyphen(flctl, command):
    """It is taken as a key: what is wrong is something else."""
    done = flctl(*("-" + "k" * 39 if word == "KEY" else word for word in command))
    assert done.code == 2 and "kkk" not in done.complaint
    assert any(word in done.complaint for word in ("/no/my.key", "/no/data", "not a role"))
