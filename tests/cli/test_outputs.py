"""What a command writes and says: never over a thing that is no file, and never lost in silence."""

import errno
import json
import os
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from flctl.coordinator.store import resume as starting
from flctl.coordinator.store.folder import RunFolder
from flctl.core.stream import Published, RunBegun
from flctl.errors import StateError
from flctl.terminal import demo

RUN = ("train", "--task", "ecg", "--virtual", 2, "--rounds", 1)


# Files -------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["pipe", "link to it", "loop", "data", "test data", "settings"])
def test_a_model_takes_no_other_things_place(flctl, tmp_path, beats, target):
    """A pipe, a device, or what the run reads is refused before anything is trained."""
    data, test_data, settings = beats(), beats("test.npz"), tmp_path / "run.toml"
    settings.write_text(f'task = "ecg"\nvirtual = 2\ndata = "{data}"\ntest_data = "{test_data}"\n')
    pipe, path = tmp_path / "pipe", tmp_path / "model"
    os.mkfifo(pipe)
    others = {"data": data, "test data": test_data, "settings": settings}
    path.symlink_to(others.get(target, path if target == "loop" else pipe))
    if target == "pipe":
        path = pipe
    done = flctl("train", settings, "--save-model", path)
    words = f"--save-model {path}: {'is an input' if target in others else 'not a regular file'}"
    if target == "loop":
        words = f"{path}: too many levels of symbolic links"
    assert (done.code, done.out) == (2, "")
    assert done.complaint.startswith(words)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert not (tmp_path / "state").exists()


def test_a_resumed_run_keeps_its_data_too(flctl, tmp_path, beats):
    """They are named in its folder, not on the command line."""
    assert flctl(*RUN, "--data", beats()).code == 0
    (run,) = (tmp_path / "state" / "runs").iterdir()
    done = flctl("train", "--resume", run.name, "--save-model", beats())
    assert (done.code, done.complaint) == (
        2, f"--save-model {beats()}: is an input, and would be overwritten; name another one",
    )  # fmt: skip


def test_the_demo_names_its_own_option(flctl, tmp_path):
    """What cannot be written is refused before anything is trained."""
    os.mkfifo(tmp_path / "curve.png")
    done = flctl("demo", "--out", tmp_path)
    assert done.code == 2
    assert done.complaint.startswith(f"--out {tmp_path}/curve.png: not a regular file")
    done = flctl("demo", "--out", "/sys/flctl")
    assert done.code == 1
    assert done.complaint.endswith("this user may not write there; name another folder with --out")


# Streams -----------------------------------------------------------------------------


def shell(beats, tmp_path, redirection, *args):
    """Run `flctl` as a shell does, with `redirection` behind it."""
    command = shlex.join([sys.executable, "-m", "flctl", *map(str, args)])
    return subprocess.run(
        ["bash", "-c", f"{command} {redirection}"],
        env={**os.environ, "FLCTL_STATE": str(tmp_path / "state")},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("redirection", "code", "words"),
    [
        ("| true; exit ${PIPESTATUS[0]}", 0, None),
        (">/dev/full", 1, "No space left on device"),
        (">&-", 1, "it is closed"),
    ],
)
@pytest.mark.parametrize("json", [(), ("--json",)])
def test_a_run_outlives_its_reader(beats, tmp_path, redirection, code, words, json):
    """It goes on to its end; what is lost otherwise than by a reader's wish is told, once."""
    done = shell(beats, tmp_path, redirection, *RUN, "--data", beats(), *json)
    said = "" if words is None else f"flctl: cannot write standard output: {words}\n"
    assert (done.returncode, done.stderr) == (code, said)
    (run,) = (tmp_path / "state" / "runs").iterdir()
    assert RunFolder(run).history().state == "finished"


@pytest.mark.parametrize("args", [("--version",), ("--help",), ("runs",), ("runs", "list")])
@pytest.mark.parametrize(
    ("redirection", "words"), [(">/dev/full", "No space left on device"), (">&-", "it is closed")]
)
def test_output_that_is_lost_is_told(beats, tmp_path, args, redirection, words):
    """In one line, with exit code 1."""
    done = shell(beats, tmp_path, redirection, *args)
    said = f"flctl: cannot write standard output: {words}\n"
    assert (done.returncode, done.stderr) == (1, said)


def test_the_exit_code_needs_no_stderr(beats, tmp_path):
    """Nor stdin."""
    for redirection in ("2>&-", "2>/dev/full", "<&- 2>&-"):
        assert shell(beats, tmp_path, redirection, "runs", "show", "none").returncode == 2


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (("train", "--task", "ecg", "--virtual", 0), 2),
        (("train", "--bad"), 2),
        (("train", "--task", "ecg", "--virtual", 999), 1),
        (("runs", "show", "none"), 2),
        (("status",), 1),
    ],
)
def test_errors_are_json_too(flctl, args, code):
    """One object with the line of stderr, alone on stdout."""
    done = flctl(*args, "--json")
    told = {"event": "error", "message": done.complaint, "exit_code": code}
    assert (done.code, json.loads(done.out)) == (code, told)


# Words -------------------------------------------------------------------------------


def test_suggested_commands_can_be_pasted(flctl, tmp_path, beats):
    """Paths are quoted, and the state folder is named."""
    model = tmp_path / "my model"
    done = flctl(*RUN, "--data", beats(), "--save-model", model)
    assert f"flctl evaluate '{model}' --task ecg" in done.out
    assert flctl("status", "--state", tmp_path / "my state").complaint.count(
        f"flctl coordinator --state '{tmp_path}/my state'"
    )


def test_the_demo_can_be_resumed(flctl, tmp_path, monkeypatch):
    """What Ctrl-C suggests names the demo's own state folder."""

    def interrupted(state, given, where, on_event):
        on_event(Published("ecg-1", RunBegun(run="ecg-1", round=0, rounds=20, task="ecg")))
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "drive_local", interrupted)
    monkeypatch.chdir(tmp_path)
    done = flctl("demo", "--out", "my demo")
    assert done.code == 130
    assert done.complaint == (
        "run ecg-1 stopped in round 1; resume with: "
        "flctl train --resume ecg-1 --state 'my demo/state'"
    )


def test_a_full_disk_pauses_a_run(flctl, tmp_path, beats, monkeypatch):
    """As it does over agents; how to go on is said, and works."""

    def full(*_):
        raise StateError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "room_for", full)
        done = flctl(*RUN, "--data", beats())
    (run,) = (tmp_path / "state" / "runs").iterdir()
    assert (done.code, done.out) == (1, "")
    go_on = f"flctl train --resume {run.name}"
    assert done.complaint == f"run {run.name} paused: the disk is full; resume with: {go_on}"
    assert RunFolder(run).history().state == "paused"
    assert f"resume with {go_on}" in flctl("runs", "show", run.name).out
    assert flctl(*shlex.split(go_on)[1:]).code == 0


def test_settings_at_fault_are_not_to_be_gone_on_with(flctl, tmp_path, beats):
    """They are frozen: the same would happen again."""
    done = flctl(*RUN, "--data", beats(), "--epochs", 9, "--proximal-mu", "1e30")
    (run,) = (tmp_path / "state" / "runs").iterdir()
    assert done.code == 1
    assert done.complaint.endswith(
        "the loss is nan; begin a new run with a lower lr or proximal_mu"
    )
    assert "resume with" not in flctl("runs", "show", run.name).out


@pytest.mark.parametrize("broken", ["new_file", "sync_folder"])
def test_a_disk_that_is_full_from_the_start(flctl, tmp_path, beats, monkeypatch, broken):
    """Nothing is left of a run that could not begin."""

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(starting, broken, full)
    done = flctl(*RUN, "--data", beats())
    assert (done.code, done.out) == (1, "")
    assert done.complaint.endswith("the disk is full; make room and try again")
    assert list((tmp_path / "state" / "runs").iterdir()) == []


def test_a_run_that_ends_early_says_why(flctl, tmp_path, beats):
    """All data used, with --on-exhausted stop; in the journal too."""
    done = flctl(*RUN[:-1], 9, "--data", beats(), "--on-exhausted", "stop")
    assert done.out.splitlines()[1] == "finished after round 1: all data used: pi-01, pi-02"
    (run,) = (tmp_path / "state" / "runs").iterdir()
    assert RunFolder(run).history().reason == "all data used: pi-01, pi-02"
    assert ": 1 round computed again" in flctl("runs", "replay", run.name).out


@pytest.mark.parametrize(("share", "warned"), [(0.3, True), (0.5, False), (1, False)])
def test_a_share_that_cannot_be_kept(flctl, beats, share, warned):
    """Two agents cannot both weigh less than a half."""
    done = flctl(*RUN, "--data", beats(), "--max-share", share)
    words = "max_share 0.3 cannot be kept by 2 agents a round: all weigh the same"
    assert done.code == 0
    assert done.err == (f"flctl: {words}\n" if warned else "")


def test_verbose_tells_of_virtual_agents_too(flctl, beats):
    """The begin, each agent's part and each commit are logged, as over real agents."""
    done = flctl(*RUN, "--data", beats(), "--verbose")
    said = [line.partition(" - ")[2] for line in done.err.splitlines() if "virtual.py" in line]
    begins, *trained, committed = said
    assert begins.endswith("begins at round 1")
    assert [line[:28] for line in trained] == [
        "round=1 agent=pi-01 trained ", "round=1 agent=pi-02 trained ",
    ]  # fmt: skip
    assert committed.startswith("round=1 committed agents=2 took_s=")


def test_settings_that_are_missing(flctl, tmp_path, beats):
    """The path once, the reason in words."""
    assert flctl(*RUN, "--data", beats()).code == 0
    (run,) = (tmp_path / "state" / "runs").iterdir()
    path = Path(run) / "run.toml"
    path.unlink()
    assert flctl("runs", "show", run.name).complaint == (
        f"run {run.name} is damaged: {path}: cannot read the run's settings: "
        "No such file or directory"
    )
