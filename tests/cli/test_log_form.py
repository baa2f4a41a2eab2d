"""What a command's log looks like beside its own messages."""

import logging
import subprocess
import sys

import pytest

from flctl.terminal import logs


@pytest.fixture(autouse=True)
def _root():
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield
    root.handlers[:], level = before
    root.setLevel(level)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"verbose": False, "quiet": True}, "flctl: a row is left out\n"),
        ({"verbose": True, "quiet": True}, "WARNING test_log_form.py"),
        ({"verbose": False}, "WARNING test_log_form.py"),
    ],
)
def test_a_warning_is_like_other_messages_unless_a_log_is_wanted(how, said, capsys):
    """Of a command with other output; those that run for long write a log with times."""
    logs.set_up(**how)
    logging.getLogger("flctl.learning").warning("a row is left out")
    err = capsys.readouterr().err
    assert err == said if said.startswith("flctl") else said in err


def test_the_warnings_of_a_worker_look_so_too(tmp_path):
    """Of `train --local`, whose coordinator reads the data in a process of its own."""
    lines = [f"{10 * i},{i % 7},{i % 5},normal" for i in range(400)]
    lines[8] = "broken"
    (tmp_path / "pi.csv").write_text("\n".join(["time,a,b,label", *lines]) + "\n")
    task = "--task", "sensors", "--task-args", "window=8", "--rounds", "1", "--epochs", "1"
    command = ["train", "--local", "1", *task, "--data", str(tmp_path / "pi.csv")]
    done = subprocess.run(
        [sys.executable, "-m", "flctl", *command, "--state", str(tmp_path / "state")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = f"flctl: {tmp_path}/pi.csv: rows left out: 1: line 10 has 1 value"
    assert {line.startswith(told) for line in done.stderr.splitlines()} == {True}, done.stderr
