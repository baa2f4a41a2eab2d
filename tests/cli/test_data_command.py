"""`flctl data`: describe, split, verify."""

import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from flctl.terminal import datasets

PNG = b"\x89PNG\r\n"


@pytest.fixture
def shares(flctl, beats, tmp_path) -> Path:
    """The small file dealt to two agents."""
    out = tmp_path / "shares"
    done = flctl("data", "split", beats(), "--out", out, "--agents", 2)
    assert (done.code, done.err) == (0, "")
    return out


def rows(table: str) -> dict[str, list[str]]:
    return {line.split()[0]: line.split()[1:] for line in table.splitlines() if line.strip()}


def everything(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_describe_counts_classes_parts_and_records(flctl, beats, tmp_path):
    """As a table, as JSON and as a picture; the task is found by trying."""
    done = flctl("data", "describe", beats(), "--png", tmp_path / "data.png")
    assert (done.code, done.err) == (0, "")
    assert "beats.npz (task ecg): 96 examples" in done.out
    found = rows(done.out)
    assert found["class"] == ["train", "validation", "later", "all", "share"]
    assert found["N"][2:] == ["8", "32", "33.3%"]
    assert found["all"] == ["64", "8", "24", "96"]
    assert found["101"] == ["16", "2", "6", "8", "8", "8", "·", "·", "24"]
    assert (tmp_path / "data.png").read_bytes().startswith(PNG)
    told = json.loads(flctl("data", "describe", beats(), "--json").out)
    assert told["task"] == "ecg"
    assert told["parts"]["later"]["classes"] == {"N": 8, "S": 8, "V": 8, "F": 0, "Q": 0}
    trained = told["parts"]["train"]["records"]["104"]
    chosen = told["parts"]["validation"]["records"]["104"]
    assert {name: trained[name] + chosen.get(name, 0) for name in "NSV"} == dict.fromkeys("NSV", 6)


def test_describe_takes_what_ships_with_a_task(flctl):
    """`--task ecg` alone."""
    told = json.loads(flctl("data", "describe", "--task", "ecg", "--json").out)
    counts = {name: part["examples"] for name, part in told["parts"].items()}
    assert counts == {"train": 4179, "validation": 728, "later": 2129, "unseen": 695}


def test_describe_counts_what_can_only_be_predicted(flctl, tmp_path):
    """A CSV file of heartbeats without their classes; also which of its rows cannot be read."""
    lines = [",".join(map(str, row)) for row in np.random.default_rng(1).normal(0, 99, (40, 187))]
    (tmp_path / "beats.csv").write_text("\n".join([*lines[:7], "1,2,3", *lines[7:]]) + "\n")
    for task in ((), ("--task", "ecg")):
        done = flctl("data", "describe", tmp_path / "beats.csv", *task)
        assert done.code == 0
        assert rows(done.out)["unlabelled"][:2] == ["40", "40"]
        assert "nothing to train on: " in done.err and "is missing" in done.err
        assert "Read: left out: rows of beats.csv that cannot be read: line 8 has 3" in done.out
    done = flctl("data", "split", tmp_path / "beats.csv", "--out", tmp_path / "s", "--agents", 2)
    assert done.code == 1 and "is missing" in done.complaint


def test_describe_knows_which_columns_there_are(flctl, tmp_path):
    """A target that is named and not there is a mistake, whatever the task learns; one that is not
    named may be missing."""
    rows = [f"{10 * n},{n % 7},{n % 5},{'run' if n > 300 else 'idle'}" for n in range(600)]
    (tmp_path / "pump.csv").write_text("\n".join(["time,a,b,state", *rows]) + "\n")
    describe = ("data", "describe", tmp_path / "pump.csv", "--task", "sensors", "--task-args")
    for learn in ("anomaly", "class", "number"):
        done = flctl(*describe, f"learn='{learn}',target='wear'")
        assert (done.code, done.out) == (2, "")
        assert done.complaint.endswith("pump.csv: no column 'wear'; it has time, a, b, state")
    assert flctl(*describe, "learn='class',target='state'").code == 0
    assert flctl(*describe, "learn='class'").code == 0


def test_describe_reads_mnist(flctl, mnist_dir, tmp_path):
    """The genuine files; without records there is no table of them."""
    done = flctl("data", "describe", mnist_dir, "--png", tmp_path / "mnist.png")
    assert (done.code, done.err) == (0, "")
    assert rows(done.out)["all"] == ["51,000", "9,000", "10,000", "70,000"]
    assert "record" not in done.out
    assert (tmp_path / "mnist.png").read_bytes().startswith(PNG)


def test_split_says_who_got_what(flctl, beats, shares):
    """In the manifest, as a table and as a picture; describe of the folder says it again."""
    manifest = json.loads((shares / "manifest.json").read_text())
    assert manifest["partition"] == "record"  # the task's own, as for flctl train
    assert (manifest["seed"], manifest["agents"], manifest["task"]) == (1, 2, "ecg")
    assert manifest["command"] == (
        f"flctl data split {beats()} --task ecg --out {shares} --agents 2 "
        "--partition record --seed 1"
    )
    assert list(manifest["shares"]) == ["pi-01", "pi-02", "test"]
    one = manifest["shares"]["pi-01"]
    assert list(one["parts"]["train"]["records"]) == ["101", "103"]
    assert one["parts"]["train"]["classes"] == {"N": 12, "S": 12, "V": 12, "F": 0, "Q": 0}
    assert one["parts"]["later"]["examples"] == 12
    (file,) = one["files"]
    assert one["files"][file]["size"] == (shares / "pi-01" / file).stat().st_size
    assert (shares / "shares.png").read_bytes().startswith(PNG)
    again = shares.parent / "again.png"
    found = rows(flctl("data", "describe", shares, "--png", again).out)
    assert found["pi-02"][:7] == ["36", "12", "12", "12", "·", "·", "12"]
    assert found["pi-02"][-2:] == ["102,", "104"]
    assert again.read_bytes() == (shares / "shares.png").read_bytes()
    assert json.loads(flctl("data", "describe", shares, "--json").out) == manifest


def test_parity_12_agents_with_the_folders_make_the_model_of_a_local_run(flctl, beats, shares):
    """A run of `--local 2`, computed again from the folders alone: the same bytes."""
    done = flctl("train", "--task", "ecg", "--local", 2, "--rounds", 2, "--data", beats(), "--json")
    assert done.code == 0, done.err
    run = json.loads(done.out.splitlines()[-1])["run"]
    one, two = (f"{name}={shares / name}" for name in ("pi-01", "pi-02"))
    again = flctl("runs", "replay", run, "--data", one, "--data", two, "--json")
    assert (again.code, again.err) == (0, "")
    told = json.loads(again.out)
    assert told["same"] and [row["round"] for row in told["rounds"]] == [0, 1, 2]
    swapped = one.replace("pi-01=", "pi-02=")
    assert flctl("runs", "replay", run, "--data", one, "--data", swapped).code == 1


def test_the_command_in_the_manifest_makes_the_same_again(flctl, shares):
    """Byte for byte, over the earlier ones by --force; without it nothing is overwritten."""
    before = everything(shares)
    command = json.loads(before["manifest.json"])["command"].split()[1:]
    refused = flctl(*command)
    assert refused.code == 2
    assert "is not empty; name a new folder, or replace it by --force" in refused.complaint
    assert flctl(*command, "--force").code == 0
    assert everything(shares) == before
    assert list(shares.parent.iterdir()) == [shares]


def test_force_replaces_only_what_a_split_has_written(flctl, beats, shares, tmp_path):
    """Not a folder of something else, not one with a stranger's file, not the data themselves."""
    split = ("data", "split", "--agents", 2, "--force", "--task", "ecg")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("three years")
    for data, out, said in (
        (beats(), tmp_path / "other", "holds 'thesis.txt', which no split has written"),
        (shares / "pi-01", shares, "the data to deal"),
        (beats(), tmp_path / "other" / "thesis.txt", "is not a folder"),
    ):
        before = everything(tmp_path)
        done = flctl(*split, data, "--out", out)
        assert (done.code, said in done.complaint) == (2, True), done.err
        assert everything(tmp_path) == before
    (shares / "pi-01" / "notes.txt").write_text("mine")
    assert "holds 'pi-01/notes.txt'" in flctl(*split, beats(), "--out", shares).complaint
    (shares / "pi-01" / "notes.txt").rename(shares / "notes.txt")
    assert "holds 'notes.txt'" in flctl(*split, beats(), "--out", shares).complaint


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--agents", 5), 1, "5 agents, but only 4 records; use --partition iid"),
        (("--agents", 200, "--partition", "iid"), 1, "200 agents, but only 72 examples"),
        (("--agents", 0), 2, "--agents"),
        (("--agents", 2, "--partition", "even"), 2, "it is one of iid, label, dirichlet"),
        (("--agents", 2, "--alpha", 0), 2, "alpha"),
        (("--agents", 2, "--seed", -1), 2, "seed"),
        (("--agents", 2, "--task", "egc"), 2, "unknown task 'egc' (did you mean 'ecg'?)"),
        ((), 2, "--agents"),
    ],
)
def test_a_split_that_cannot_be_is_one_line_and_leaves_nothing(
    flctl, beats, tmp_path, options, code, said
):
    """What, where, and what to do."""
    done = flctl("data", "split", beats(), "--out", tmp_path / "shares", *options)
    assert (done.code, said in done.complaint) == (code, True), done.err
    assert list(tmp_path.iterdir()) == []


TASK = """
import os, signal
from flctl.learning.ecg import Ecg

class Interrupted(Ecg):
    name = "interrupted"
    def write(self, folder, train, tests):
        super().write(folder, train, tests)
        if folder.name == "pi-02":
            os.kill(os.getpid(), signal.SIGINT)
"""


def test_ctrl_c_leaves_nothing_half_and_an_earlier_split_whole(
    flctl, beats, shares, tmp_path, monkeypatch
):
    """In the middle of the writing, with and without an earlier split in the place."""
    (tmp_path / "interrupted_task.py").write_text(TASK)
    monkeypatch.syspath_prepend(tmp_path)
    split = ("data", "split", beats(), "--agents", 2, "--task", "interrupted_task:Interrupted")
    before = everything(shares)
    assert flctl(*split, "--out", tmp_path / "new").code == 130
    assert flctl(*split, "--out", shares, "--force").code == 130
    assert everything(shares) == before
    left = {path.name for path in tmp_path.iterdir()} - {"__pycache__"}
    assert left == {"interrupted_task.py", "shares"}


def test_a_file_that_cannot_be_written_whole_is_one_line_and_leaves_nothing(beats, tmp_path):
    """The system refuses this process files over 16 KiB, as a full disk would."""
    limit = (16 << 10, 16 << 10)
    done = subprocess.run(
        [sys.executable, "-B", "-m", "flctl", "data", "split", beats(), "--agents", "2",
         "--out", tmp_path / "shares"],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == f"flctl: {tmp_path}/shares: cannot write the shares: File too large\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:-1]), "pi-02/beats.npz has "),
        (
            lambda file: file.write_bytes(b"Q" + file.read_bytes()[1:]),
            "pi-02/beats.npz has another content (sha256)",
        ),
        (lambda file: file.unlink(), "pi-02/beats.npz is missing"),
        (lambda file: shutil.rmtree(file.parent), "pi-02/beats.npz is missing"),
        (
            lambda file: file.with_name("more.npz").write_bytes(b""),
            "pi-02/more.npz is not in the manifest",
        ),
        (
            lambda file: shutil.copytree(file.parent, file.parents[1] / "pi-03"),
            "pi-03 is not in the manifest",
        ),
    ],
    ids=["short", "changed", "gone", "folder gone", "more", "another agent"],
)
def test_verify_finds_every_file_that_is_not_as_it_was(flctl, shares, damage, said):
    """Names it, and says what is wrong; the other shares may be checked alone."""
    whole = flctl("data", "verify", shares)
    assert (whole.code, whole.out) == (0, f"{shares}: 3 files, all match the manifest\n")
    damage(shares / "pi-02" / "beats.npz")
    done = flctl("data", "verify", shares)
    assert (done.code, said in done.complaint) == (1, True), done.err
    told = flctl("data", "verify", shares, "--json")
    problem = json.loads(told.out.splitlines()[0])["problems"][0]
    assert f"{problem['file']} {problem['problem']}".startswith(said)
    assert flctl("data", "verify", shares, "pi-01", "test").code == 0


def test_shares_are_not_written_over_a_whole_file_system(flctl):
    """It could not be replaced by a rename, which would be found out only after the work."""
    done = flctl("data", "split", "--task", "ecg", "--agents", 2, "--out", "/proc", "--force")
    assert (done.code, "/proc: is a whole file system" in done.complaint) == (2, True), done.err


def test_nobody_trains_on_the_parent_of_all_shares(flctl, shares):
    """Whoever names it is told which folders are."""
    done = flctl("train", "--task", "ecg", "--virtual", 2, "--data", shares)
    assert f"holds the shares of all agents; name one, such as {shares}/pi-01" in done.complaint


def test_a_manifest_is_believed_only_when_it_is_one(flctl, shares):
    """Missing, not JSON, of another form, with a file outside; a share that it does not have."""
    path = shares / "manifest.json"
    text = path.read_text()
    for content, code, said in (
        ("{", 1, "not a manifest of shares"),
        (text.replace('"schema": 1', '"schema": 2'), 1, "not a manifest of shares"),
        (text.replace('"beats.npz"', '"../../secret"', 1), 1, "is not within its folder"),
        (None, 2, "no manifest.json is there"),
    ):
        if content is None:
            path.unlink()
        else:
            path.write_text(content)
        done = flctl("data", "verify", shares)
        assert (done.code, said in done.complaint) == (code, True), done.err
    path.write_text(text)
    unknown = flctl("data", "verify", shares, "pi-09")
    assert "there is no share 'pi-09'; there are pi-01" in unknown.complaint


def test_mnist_is_dealt_as_its_four_files(flctl, mnist_dir, tmp_path):
    """The genuine set, by Dirichlet: everything goes to somebody once, and is MNIST again."""
    out = tmp_path / "shares"
    done = flctl("data", "split", mnist_dir, "--out", out, "--agents", 3,
                 "--partition", "dirichlet", "--alpha", 0.2, "--json")  # fmt: skip
    assert (done.code, done.err) == (0, "")
    manifest = json.loads(done.out)
    assert (manifest["partition"], manifest["alpha"]) == ("dirichlet", 0.2)
    agents = [share for name, share in manifest["shares"].items() if name != "test"]
    assert sum(share["parts"]["train"]["examples"] for share in agents) == 60_000
    assert sum(share["parts"]["test"]["examples"] for share in agents) == 10_000
    assert sorted(path.name for path in (out / "pi-03").iterdir()) == [
        "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte",
        "train-images-idx3-ubyte", "train-labels-idx1-ubyte",
    ]  # fmt: skip
    told = json.loads(flctl("data", "describe", out / "pi-03", "--json").out)["parts"]
    trained = told["train"]["examples"] + told["validation"]["examples"]
    assert trained == agents[2]["parts"]["train"]["examples"]
    assert told["test"] == agents[2]["parts"]["test"]


def test_data_for_testing_only_are_described_with_a_word_of_warning(flctl, shares):
    """Nobody can train on them, which is told on stderr."""
    done = flctl("data", "describe", shares / "test")
    assert done.code == 0
    assert rows(done.out)["class"] == ["later", "all", "share"]
    assert "nothing to train on" in done.complaint


def test_what_is_missing_is_told(flctl, tmp_path):
    """A path that is not there; neither path nor task."""
    absent = flctl("data", "describe", tmp_path / "absent")
    assert absent.complaint == f"{tmp_path}/absent: no such file or folder"
    assert "name a file or folder" in flctl("data", "describe").complaint


def test_a_share_is_a_small_file_of_plain_arrays(shares):
    """Anybody's numpy reads it, without unpickling."""
    with np.load(shares / "pi-01" / "beats.npz", allow_pickle=False) as arrays:
        types = {name: arrays[name].dtype for name in arrays}
    assert types == {
        "X": np.int16,
        "y": np.uint8,
        "record": "<U3",
        "split": np.uint8,
        "unit": "<U8",
    }


def test_another_split_into_the_same_folder(flctl, beats, tmp_path, monkeypatch):
    """What is there by the end is not replaced, unless --force says so."""
    out, deal = tmp_path / "shares", datasets.write_shares

    def meanwhile(*args):
        out.mkdir()
        (out / "theirs").touch()
        return deal(*args)

    monkeypatch.setattr(datasets, "write_shares", meanwhile)
    done = flctl("data", "split", beats(), "--out", out, "--agents", 2)
    assert (done.code, done.out) == (2, "") and str(out) in done.complaint
    assert [each.name for each in out.iterdir()] == ["theirs"]
    assert not list(tmp_path.glob(".shares*"))
