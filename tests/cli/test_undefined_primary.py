"""A primary metric that the data give no value: no round is the best, and it is said."""

import json
import sys

import pytest

WATCH = """
import torch
from torch import nn
import flctl

class Watch(flctl.Anomaly):
    name = "watch"
    primary = "auroc"

    def model(self):
        return nn.Sequential(nn.Linear(3, 1), nn.Linear(1, 3))

    def train_data(self, path):
        return flctl.Examples(torch.rand(40, 3, generator=torch.Generator().manual_seed(1)))

    def held_out(self, path):
        x = torch.rand(12, 3, generator=torch.Generator().manual_seed(2))
        return flctl.Examples(x, torch.arange(12) % 2)
"""
WHY = "on validation AUROC cannot be computed: it takes labelled examples of two classes"


@pytest.fixture
def watch(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_watch.py").write_text(WATCH)
    yield "own_watch:Watch"
    sys.modules.pop("own_watch", None)


def test_a_task_whose_best_round_cannot_be_chosen_is_not_fit(flctl, watch):
    """The validation part is of what is trained on, without labels; it was called fit."""
    done = flctl("tasks", "check", watch)
    assert done.code == 1 and done.complaint.endswith("not fit for a fleet yet: round")
    (line,) = [line for line in done.out.splitlines() if line.startswith("round ")]
    assert f"task 'watch', primary: no round would be the best: {WHY}; choose another" in line


def test_the_data_of_one_device_may_lack_what_others_have(flctl, watch, tmp_path):
    """A note, and the verdict repeats it."""
    (tmp_path / "some.csv").write_text("1\n")
    done = flctl("tasks", "check", watch, "--data", tmp_path / "some.csv")
    assert done.code == 0, done.err
    *_, line, verdict = done.out.splitlines()
    assert line.startswith("round       note") and WHY in line
    assert verdict.endswith(f"fit for a fleet, but here no round would be the best: {WHY}")


def test_a_run_without_a_primary_figure_has_no_best_round_and_says_so(flctl, watch, tmp_path):
    """It was round 1; in the end, in `runs show`, and where the best is asked for."""
    state = "--state", tmp_path / "s"
    run = "train", "--task", watch, "--virtual", 2, "--rounds", 2, *state
    assert f"no round is the best: {WHY}" in flctl(*run).out
    end = json.loads(flctl(*run, "--json").out.splitlines()[-1])
    assert WHY in end["no_best"]
    assert f"best        none: {WHY}" in flctl("runs", "show", end["run"], *state).out
    assert not list((tmp_path / "s" / "runs").rglob("best.safetensors"))
    ask = "runs", "export", end["run"], "--which", "best", "--format", "safetensors"
    done = flctl(*ask, *state)
    assert done.code == 2 and WHY in done.complaint and "--which last" in done.complaint


def test_what_has_no_value_is_null_in_json_and_empty_in_csv(flctl, watch, tmp_path):
    """JSON had -1.8e308: programs drew it."""
    state = "--state", tmp_path / "s"
    printed = flctl("train", "--task", watch, "--virtual", 2, "--rounds", 1, *state, "--json").out
    end = json.loads(printed.splitlines()[-1])
    validation = "evaluate", end["checkpoint"], "--task", watch, "--split", "validation"
    for done in (
        flctl("runs", "show", end["run"], *state, "--json"),
        flctl(*validation, "--json"),
        flctl("runs", "export", end["run"], *state, "--format", "csv", "--out", "-"),
    ):
        assert done.code == 0, done.err
        printed += done.out
    assert "e308" not in printed
    assert json.loads(flctl(*validation, "--json").out)["values"]["auroc"] is None
    assert "  - (0.500)  " in flctl(*validation).out
