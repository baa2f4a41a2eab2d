"""Code of one's own (`module:Class`) is named on the command line only, not by a file."""

import json
import shutil
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from flctl.coordinator.store.folder import RunFolder

OWN = """
from pathlib import Path
import torch
from torch import nn
from flctl.learning.classification import Classification
from flctl.learning.examples import Examples

Path(__file__).with_name("imported").touch()

class Own(Classification):
    name = "own"
    classes = ("a", "b")
    defaults = {"batch_size": 8, "rounds": 1}
    def model(self):
        return nn.Linear(4, 2)
    def train_data(self, path):
        return Examples(torch.ones(32, 4), torch.arange(32) % 2, classes=2)
    def held_out(self, path):
        return Examples(torch.zeros(8, 4), torch.arange(8) % 2, classes=2)
"""
OWN_REF = "helper_named:Own"


@pytest.fixture
def helper(tmp_path, monkeypatch):
    """A module in the current folder that leaves a mark when it is imported: the mark."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "helper_named.py").write_text(OWN)
    yield tmp_path / "imported"
    sys.modules.pop("helper_named", None)


def forget(mark):
    """As in a process of its own, which has imported nothing yet."""
    sys.modules.pop("helper_named", None)
    mark.unlink()


@pytest.fixture
def own_run(helper, flctl):
    """A run of the helper's task; it is not imported any more."""
    done = flctl("train", "--task", OWN_REF, "--virtual", 2)
    assert done.code == 0, done.err
    forget(helper)
    (path,) = (helper.parent / "state" / "runs").iterdir()
    return RunFolder(path)


@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_a_checkpoint_does_not_choose_what_is_imported(command, helper, flctl):
    weights = {"weight": np.zeros((2, 4), np.float32), "bias": np.zeros(2, np.float32)}
    save_file(weights, "got.safetensors", {"flctl": json.dumps({"task": OWN_REF})})
    what = ("got.safetensors",) if command == "evaluate" else ("got.safetensors", "helper_named.py")
    done = flctl(command, *what)
    assert (done.code, helper.exists()) == (2, False)
    assert f"got.safetensors names code to import, the task '{OWN_REF}'" in done.complaint
    assert f"say --task {OWN_REF}" in done.complaint
    done = flctl(command, *what, "--task", OWN_REF)
    assert (done.code, done.err, helper.exists()) == (0, "", True)


def test_a_settings_file_does_not_either(helper, flctl):
    (helper.parent / "run.toml").write_text(f'task = "{OWN_REF}"\nvirtual = 2\n')
    done = flctl("train", "run.toml")
    assert (done.code, helper.exists()) == (2, False)
    assert "run.toml names code to import" in done.complaint
    done = flctl("train", "run.toml", "--task", OWN_REF)
    assert (done.code, helper.exists()) == (0, True)


@pytest.mark.parametrize(
    "command",
    [
        ("runs", "export", "RUN", "--format", "onnx"),
        ("runs", "replay", "RUN"),
        ("train", "--resume", "RUN"),
    ],
)
def test_a_run_does_not_either(command, helper, own_run, flctl):
    """Nor does one that a coordinator answers about: both are read the same way."""
    if "--resume" in command:
        journal = own_run.journal_path
        journal.write_text(journal.read_text().splitlines(keepends=True)[0])
        shutil.rmtree(own_run.round_path(1))
    words = [own_run.name if word == "RUN" else word for word in command]
    done = flctl(*words)
    assert (done.code, helper.exists()) == (2, False)
    assert f"run {own_run.name} names code to import, the task '{OWN_REF}'" in done.complaint
    done = flctl(*words, "--task", OWN_REF)
    assert (done.code, helper.exists()) == (0, True), done.err
    if "onnx" not in command:
        done = flctl(*words, "--task", "ecg")
        assert done.code == 2 and f"is of task '{OWN_REF}'" in done.complaint


def test_a_picture_has_numbers_for_such_classes(helper, own_run, flctl):
    done = flctl("runs", "plot", own_run.name)
    assert (done.code, done.err, helper.exists()) == (0, "", False)
    done = flctl("runs", "plot", own_run.name, "--task", OWN_REF)
    assert (done.code, helper.exists()) == (0, True)


def test_the_suggested_command_names_the_task_again(own_run, flctl):
    journal = own_run.journal_path
    lines = journal.read_text().splitlines()
    stopped = json.dumps({"event": "stopped", "at": 1.0, "reason": "by hand"})
    journal.write_text("\n".join([*lines[:-2], stopped, ""]))
    said = flctl("runs", "show", own_run.name).out
    assert f"train --resume {own_run.name} --task {OWN_REF}" in said


def test_a_resume_with_other_code_of_the_task_says_so(helper, flctl, own_run):
    """As with other code of the strategy: it goes on, and is not reproducible."""
    journal, code = own_run.journal_path, helper.parent / "helper_named.py"
    lines = journal.read_text().splitlines()
    stopped = json.dumps({"event": "stopped", "at": 1.0, "reason": "by hand"})
    journal.write_text("\n".join([*lines[:-2], stopped, ""]))
    code.write_text(code.read_text() + "\n\nOTHER = 1\n")
    done = flctl("train", "--resume", own_run.name, "--task", OWN_REF)
    assert done.code == 0, done.err
    assert f"the task's code has changed since run {own_run.name} began: a replay" in done.err
    history = own_run.history()
    assert (history.state, history.reproducible) == ("finished", False)
